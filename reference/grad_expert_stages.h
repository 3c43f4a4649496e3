// The backward stages that multiply with expert weights or sum into their gradients, expert by expert over all ranks.
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "harness/trace/expected.h"
#include "harness/trace/layout.h"
#include "reference/moe_layer.h"
#include "reference/observed_layer.h"

namespace moecheck::reference {

class GradExpertStages {
 public:
  // is_batched: the batched backend adds gradients up in the store dtype, row by row; the others in fp32.
  // Requires: the layer outlives this.
  GradExpertStages(const ObservedLayer& layer, bool is_batched);

  bool has_rows(Dim expert) const;
  void run(Dim expert, const ExpertWeights<float>& weights);
  void skip(Dim expert);   // its weights are not known

  // grad/act_RF, grad/in_RD, grad/experts/*, and grad/x_TD, the latter with the router's part from `w_router_ED`, if that is known.
  void write(trace::Expected& expected, const Matrix<float>* w_router_ED);

 private:
  struct RankWork {
    const ObservedRank* seen = nullptr;
    std::vector<Dim> gate_up_columns;   // global indices of the local columns
    std::vector<Dim> f_columns;
    trace::LocalExperts experts;
    trace::ExpectedTap grad_act;
    trace::ExpectedTap grad_in;
    // This rank's own summands, of its experts and columns.
    trace::ExpectedTap grad_gate_up_EGD;
    trace::ExpectedTap grad_down_EDF;
  };
  // A parameter's gradient among the members of RankWork.
  struct Parameter {
    std::string_view tap;
    trace::ExpectedTap RankWork::*grad;
  };

  void add_rank(const ObservedRank& seen);
  void run_rank(RankWork& work, Dim expert, const ExpertWeights<float>& weights) const;
  void add_outer_products(RankWork& work, Dim expert) const;
  std::optional<trace::ExpectedTap> summed_over_replicas(const RankWork& work, const Parameter& parameter) const;
  std::optional<trace::ExpectedTap> stored_shard(const RankWork& work, const Parameter& parameter, trace::ExpectedTap sum) const;
  std::optional<trace::ExpectedTap> whole_dx(const ObservedRank& seen, const Matrix<float>& w_router_ED) const;
  bool add_rows_dx(const ObservedRank& seen, const ObservedRank& member, bool is_recorded, trace::ExpectedTap& dx) const;

  const ObservedLayer& layer_;
  bool is_batched_;
  std::map<Dim, RankWork> ranks_;
};

}  // namespace moecheck::reference
