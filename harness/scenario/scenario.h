// A scenario as it stands in its file: checked word by word, not expanded yet. Every value keeps its place.
#pragma once

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

// An entry of exclude, include or xfail, or the `set` of a suite.
struct KnobGroup {
  std::vector<KnobSetting> knobs;
  Spot spot;
};

struct AxisValue {
  std::string text;  // canonical
  Spot spot;
};

struct MatrixAxis {
  std::string knob;
  std::vector<AxisValue> values;  // at least one, pairwise different
  Spot spot;
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
  std::vector<KnobGroup> exclude;
  std::vector<KnobGroup> include;
  std::vector<ExpectedFailure> xfail;
  std::vector<std::string> tags;
  Spot model_spot;  // where to point when a value that the family supplied is to blame; the first line without one
};

}  // namespace moecheck::scenario
