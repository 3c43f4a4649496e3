// A scenario as it stands in its file: checked word by word, not expanded yet. Every value keeps its place.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "harness/scenario/source.h"

namespace moecheck::scenario {

struct KnobSetting {
  std::string knob;  // a name of cases::fields()
  std::string text;  // canonical
  Spot key_spot;
  Spot spot;         // of the value
};

// A value of a matrix axis, an entry of exclude, include or xfail, or the `set` of a suite.
struct KnobGroup {
  std::vector<KnobSetting> knobs;
  Spot spot;
};

// An axis is the list of values of one knob, dtype: [fp32, bf16], or a bundle, whose values set some knobs together:
//     layout: [{impl: ep_allreduce, mesh: "ep=2"}, {impl: tp_sharded, mesh: "tp=2"}]
// The values of a bundle need not set the same knobs; one that is left out has its default. A knob is set by one axis at most.
struct MatrixAxis {
  std::string name;               // the knob; of a bundle a free label, which is no knob's name
  std::vector<KnobGroup> values;  // at least one, pairwise different; of a knob's axis each has that knob alone
  Spot spot;                      // of the name
};

constexpr std::int64_t kMinCover = 2;
constexpr std::int64_t kMaxCover = 4;

// Instead of the whole product a few cases, in which every combination of values of every `strength` axes occurs.
struct Cover {
  std::size_t strength = 0;  // kMinCover to kMaxCover, and at most the number of axes
  Spot spot;                 // of the value
};

struct ExpectedFailure {
  KnobGroup when;  // without knobs: every case
  std::string reason;
};

struct Scenario {
  Source source;
  std::string name;  // path below the scenarios folder without suffix: "cases/ep/tiny"
  std::string description;
  std::vector<KnobSetting> base;  // phases and checks are knobs too
  std::vector<MatrixAxis> matrix;
  bool has_matrix = false;
  std::optional<Cover> cover;  // only with a matrix
  std::vector<KnobGroup> exclude;
  std::vector<KnobGroup> include;
  std::vector<ExpectedFailure> xfail;
  std::vector<std::string> tags;
  Spot model_spot;  // where to point when a value that the family supplied is to blame; the first line without one
};

}  // namespace moecheck::scenario
