// The backward stages that multiply with expert weights or sum into their gradients, expert by expert over all ranks.
#pragma once

#include <map>
#include <span>
#include <vector>

#include "harness/trace/expected.h"
#include "reference/moe_layer.h"
#include "reference/observed_rank.h"

namespace moecheck::reference {

class GradExpertStages {
 public:
  // is_batched: the batched backend adds gradients up in the store dtype, row by row; the others in fp32.
  GradExpertStages(const model::Problem& problem, bool is_batched, std::span<const ObservedRank> all);

  bool has_rows(Dim expert) const;
  void run(Dim expert, const ExpertWeights<float>& weights);

  // grad/act_RF, grad/experts/*, and grad/x_TD, the latter with the router's part from `w_router_ED`.
  void write(trace::Expected& expected, const Matrix<float>& w_router_ED);

 private:
  struct RankWork {
    const ObservedRank* seen = nullptr;
    std::vector<Dim> gate_up_columns;   // global indices of the local columns
    std::vector<Dim> f_columns;
    Dim first_expert = 0;
    Dim num_experts = 0;
    trace::ExpectedTap grad_act;
    trace::ExpectedTap grad_gate_up_EGD;
    trace::ExpectedTap grad_down_EDF;
    // This rank's own summand of dx, and its magnitudes.
    Matrix<double> dx_TD, dx_magnitude_TD, dx_stored_TD;
  };

  void add_rank(const ObservedRank& seen);
  void run_rank(RankWork& work, Dim expert, const ExpertWeights<float>& weights) const;
  void add_outer_products(RankWork& work, Dim expert, Dim row, Dim token) const;
  trace::ExpectedTap summed_over_replicas(const RankWork& work, trace::ExpectedTap RankWork::*member) const;
  trace::ExpectedTap whole_dx(const RankWork& work, const Matrix<float>& w_router_ED) const;

  const model::Problem& problem_;
  bool is_batched_;
  std::map<Dim, RankWork> ranks_;
};

}  // namespace moecheck::reference
