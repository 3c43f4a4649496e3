// A case: one single-valued problem with an implementation to run it, immutable after expansion.
// Its id is name, filter and repro at once: "impl=ep_allreduce model=qwen3_moe mesh=ep=2 dtype=bf16 seed=7".
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "harness/base/result.h"
#include "harness/model/problem.h"

namespace moecheck::cases {

struct Case {
  model::Problem problem;
  std::string impl;
  std::string experts_backend;
  std::string device;                // "cpu", "cuda"
  std::vector<std::string> phases;   // "load", "forward"
  std::vector<std::string> checks;   // {"all"}, or names
  std::string fault;                 // name of an injected bug; empty for none

  // Not part of the id.
  std::string scenario;              // path of the scenario without suffix, or "command line"
  std::vector<std::string> tags;
  std::string xfail_reason;          // not empty: expected to fail

  model::Dim world_size() const { return problem.mesh.world_size(); }
};

// Knob name -> canonical text; what a scenario, --set and a case id are made of. Names are those of fields().
using KnobValues = std::map<std::string, std::string, std::less<>>;

using FamilyLoader = std::function<base::Result<model::ModelSpec>(std::string_view family)>;

// Fills in defaults and the family's sizes and checks that the whole makes sense.
// Errors: kUsage with the remedy ("mesh ep=3 does not divide experts=8; use 1, 2, 4 or 8").
//         Error::where is the name of the knob to blame, so that a reader of YAML can point at it.
base::Result<Case> make_case(const KnobValues& knobs, const FamilyLoader& load_family);

// Every knob with its value, in table order; what a record shows and a subject is sent.
std::vector<std::pair<std::string, std::string>> config_of(const Case& one);

// impl, model, mesh and dtype always, then each knob that differs from its default (or from the family's value).
std::string case_id(const Case& one, const FamilyLoader& load_family);

// Reads back an id: `knob=value` separated by blanks. Errors: kUsage with did-you-mean.
base::Result<KnobValues> parse_case_id(std::string_view id);

}  // namespace moecheck::cases
