// The stages that multiply with expert weights, over all ranks at once: each expert is generated once and its rows of all
// ranks go through one product.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "harness/trace/expected.h"
#include "reference/moe_layer.h"
#include "reference/observed_layer.h"

namespace moecheck::reference {

// One stage `out = in x selected weight`, gathered over ranks.
class ExpertStage {
 public:
  enum class Weight { kGateUp, kDown };

  // Requires: the layer outlives this.
  ExpertStage(Weight weight, const ObservedLayer& layer) : weight_(weight), layer_(layer), spec_(layer.problem().model) {}

  // The rank takes part if it shows the stage and its inputs, with shapes that fit.
  void add_rank(const ObservedRank& seen);
  bool has_rows(Dim expert) const;
  void run(Dim expert, const ExpertWeights<float>& weights);
  void skip(Dim expert);   // its weights are not known
  // The tap of each rank that took part; afterwards the stage is used up.
  std::map<Dim, trace::ExpectedTap> take_taps();

 private:
  struct Row {
    Dim row;
    RecordedRow input;
    trace::ExpectedTap* tap;
  };
  // Ranks that hold the same part of the weight.
  struct Part {
    std::vector<Dim> w_rows;
    std::vector<Dim> w_columns;
    std::vector<std::vector<Row>> rows_of_expert;
  };

  Part& part_with(std::vector<Dim> w_rows, std::vector<Dim> w_columns);

  Weight weight_;
  const ObservedLayer& layer_;
  const model::ModelSpec& spec_;
  std::vector<Part> parts_;
  std::map<Dim, trace::ExpectedTap> taps_;
};

}  // namespace moecheck::reference
