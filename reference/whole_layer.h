// What a subject should have shown that does not show the inside of its layer: from its recorded tokens and its own routing on, the
// layer in double with the bounds that add up on the way.
//
// Only taps that are shown and for which no stage of its own could be evaluated: its inputs were not shown. What is recorded on the
// way (scores, their gradient, that of the logits) is gone on from, and not computed again.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "harness/cases/case.h"
#include "harness/trace/expected.h"
#include "reference/experts.h"
#include "reference/whole_tokens.h"

namespace moecheck::reference {

// One pass over the experts: add() or skip() for each that has rows, then write().
class WholeLayer {
 public:
  // w_router_ED: nullptr if it is not known. grad_y_SD: that of all tokens of the batch.
  // Requires: case, layer and `expected`, with all stages in it, outlive this.
  WholeLayer(const cases::Case& one, const ObservedLayer& layer, const Matrix<float>* w_router_ED, Matrix<double> grad_y_SD,
             trace::Expected& expected);

  // Some rank shows one of these taps without its stage.
  static bool is_needed(const ObservedLayer& layer, const trace::Expected& expected);

  bool has_rows(Dim expert) const { return !tokens_.rows_of(expert).empty(); }
  void add(Dim expert, const ExpertWeights<float>& weights);
  void skip(Dim expert);   // its weights are not known
  // Once, at the end.
  void write();

 private:
  // Columns of F, and rows of gate_up, that one tp coordinate computes; all of them if tp does not cut the experts.
  struct Part {
    std::vector<Dim> f_columns;
    std::vector<Dim> gate_up_rows;
  };
  // combine/partial_TD of a rank.
  struct Partial {
    const ObservedRank* seen;
    bool is_of_local_experts = false, is_of_own_part = false;   // else of all
    TrackedSum sum;
  };
  // The gradient of a parameter on a rank.
  struct ParameterGradient {
    const ObservedRank* seen;
    std::string tap;
    trace::WholeTap into;
  };
  // What one expert computes with.
  struct Work {
    Dim expert;
    std::vector<RoutedRow> rows;
    Tracked score_R1, in_RD, gate_up_RG, act_RF;
    Matrix<double> w_gate_up_GD, w_down_DF;

    tolerance::Near score(std::size_t row) const {
      const auto r = static_cast<Dim>(row);
      return {score_R1.value(r, 0), score_R1.bound(r, 0)};
    }
  };

  Work forward(Dim expert, const ExpertWeights<float>& weights) const;
  void add_output(const Work& work, std::size_t part, const Tracked& out_RD);
  void add_backward(const Work& work, const std::vector<Tracked>& outs_RD);
  void add_score_gradients(const Work& work, const std::vector<Tracked>& outs_RD, const Tracked& d_y_RD);
  void add_row_gradients(const Work& work, const Tracked& d_gate_up_RG);
  void add_parameter_gradients(const Work& work, const Tracked& d_out_RD, const Tracked& d_gate_up_RG);
  void find_wanted();
  Partial partial_of(const ObservedRank& seen) const;

  void write_output();
  void write_routing_gradients();
  void write_router(const Tracked& d_logits_SE);
  void write_dx(const Tracked& d_logits_SE);
  void write_rows(std::string_view tap, const Tracked& all_S);
  bool weighs_before() const { return layer_.weighs_before(); }
  Dim num_ranks() const;   // of a layer group

  const cases::Case& one_;
  const ObservedLayer& layer_;
  const Matrix<float>* w_router_ED_;
  Matrix<double> grad_y_SD_;
  trace::Expected& expected_;
  WholeTokens tokens_;
  std::vector<Part> parts_;
  std::vector<Partial> partials_;
  std::vector<ParameterGradient> parameters_;
  bool is_backward_ = false;
  std::vector<std::uint8_t> is_complete_;   // by token: all of its experts were added
  TrackedSum y_SD_, d_x_SD_, d_scores_SK_;
};

}  // namespace moecheck::reference
