// A finding: what a check has to say about one place of one case.
#pragma once

#include <optional>
#include <string>

#include "harness/base/json.h"

namespace moecheck::record {

enum class FindingClass {
  kBug,           // fails the case
  kContract,      // a declared property is not kept; fails the case
  kBenignFlip,    // another top-k than the reference's, certified by the bounds; information
  kNoise,         // a difference within its bound; information
  kInconclusive,  // cannot be told
};

struct Finding {
  std::string check;
  FindingClass cls = FindingClass::kBug;
  std::string stage;                   // tap name, or phase ("load")
  std::string tensor;                  // as reported by the subject; a parameter's name where that helps
  std::optional<std::int64_t> step;    // of training, from 1; absent in a case without steps
  std::optional<std::int64_t> rank;
  std::optional<std::int64_t> expert;  // global id
  std::optional<std::int64_t> token;   // global index
  std::optional<std::int64_t> slot;
  std::optional<double> want;          // the worst element
  std::optional<double> got;
  std::optional<double> measured;      // error in the tensor's unit, or a count
  std::optional<double> bound;         // what was allowed, same unit
  std::optional<double> used;          // measured / bound
  std::int64_t compared = 0;           // elements (or keys) looked at by the check in this place
  std::string message;                 // one sentence: what is wrong, how much of it
  std::string hypothesis;              // the nearest known cause; empty if none
  std::string life = {};               // of a case with several: "restart 1 on ep=4"; empty in a plain one
};

std::string_view class_name(FindingClass cls);
bool is_failure(const Finding& finding);  // bug or contract

// NaN and Inf become the strings "nan", "inf", "-inf": JSON has no such numbers.
base::Json to_json(const Finding& finding);
Finding finding_from_json(const base::Json& json);

}  // namespace moecheck::record
