#include "harness/check/euler_sums.h"

#include <cmath>

#include <fmt/format.h>

#include "harness/check/compare.h"
#include "harness/check/join.h"
#include "harness/check/readable.h"
#include "harness/tolerance/bounds.h"

namespace moecheck::check {
namespace {

// A tap of a rank with what its elements may be off by; NaN where the reference cannot say.
struct Shown {
  const base::HostTensor& tensor;
  const trace::ExpectedTap* expected = nullptr;
  std::optional<ElementBounds> bounds = {};

  Shown(const CheckInput& input, Dim rank, std::string_view tap)
      : tensor(*rank_trace(input, rank)->tensor(tap)), expected(expected_tap(input, rank, tap)) {
    if (expected != nullptr && expected->value.numel() == tensor.numel()) bounds.emplace(*expected, CompareRule{tap, store_of(input.one, tap)});
  }
  double at(Dim i) const { return tensor.at(i); }
  double bound(Dim i) const {
    if (!bounds) return NAN;
    const auto row = static_cast<std::size_t>(i / (tensor.numel() / tensor.dim(0)));
    return row < expected->is_comparable.size() && expected->is_comparable[row] == 0 ? NAN : bounds->at(i);
  }
};

struct ParameterSide {
  std::string_view parameter;
  Dim first_row;   // of dim 1 of the whole tensor: the up part of gate_up
  InnerProduct EulerSums::*sum;
};

// Each shard once.
void add_weights(const CheckInput& input, Dim rank, const ParameterSide& side, std::vector<EulerSums>& experts) {
  const model::Problem& problem = input.one.problem;
  const std::string tap = fmt::format("param/{}", side.parameter), gradient = fmt::format("grad/{}", side.parameter);
  if (trace::replica_group(problem, tap, rank).front() != rank) return;
  const Shown weight(input, rank, tap), grad(input, rank, gradient);
  const auto held = trace::declared_indices(problem, tap, rank, 0), rows = trace::declared_indices(problem, tap, rank, 1);
  const Dim columns = weight.tensor.dim(2);
  Dim i = 0;
  for (const Dim e : held) {
    EulerSums& expert = experts.at(static_cast<std::size_t>(e));
    if (expert.rank < 0) expert.rank = rank;
    for (const Dim row : rows)
      for (Dim column = 0; column < columns; ++column, ++i)
        if (row >= side.first_row) (expert.*side.sum).add(weight.at(i), grad.at(i), grad.bound(i));
  }
}

// With x the recorded value of a stage and e its rounding: <W_down a, do> = <out - e, do>, s <out, dy> = <out, do - e>, so that the
// sides differ by <e, do> and <out, e>; likewise for act, and for the up part of gate_up, with their gradients.
void add_rows(const CheckInput& input, Dim rank, std::vector<EulerSums>& experts) {
  const base::HostTensor& keys = *rank_trace(input, rank)->tensor("dispatch/rows_R3");
  const Shown out(input, rank, "experts/out_RD"), d_out(input, rank, "grad/out_RD"), act(input, rank, "experts/act_RF");
  const Shown d_act(input, rank, "grad/act_RF"), gate_up(input, rank, "experts/gate_up_RG"), d_gate_up(input, rank, "grad/gate_up_RG");
  const auto slack = [](const Shown& value, const Shown& gradient, Dim i) {
    return value.bound(i) * std::fabs(gradient.at(i)) + std::fabs(value.at(i)) * gradient.bound(i);
  };
  const Dim d = out.tensor.dim(1), f = act.tensor.dim(1);
  for (Dim row = 0; row < keys.dim(0); ++row) {
    const Dim e = row_key(keys, row).expert;
    if (e < 0 || e >= static_cast<Dim>(experts.size())) continue;
    EulerSums& expert = experts[static_cast<std::size_t>(e)];
    ++expert.rows;
    for (Dim i = row * d; i < (row + 1) * d; ++i) expert.down_to_score += slack(out, d_out, i);
    for (Dim i = row * f; i < (row + 1) * f; ++i) expert.down_to_up += slack(act, d_act, i);
    for (Dim i = row * 2 * f + f; i < (row + 1) * 2 * f; ++i) expert.down_to_up += slack(gate_up, d_gate_up, i);
  }
}

// Each token once.
void add_scores(const CheckInput& input, Dim rank, std::vector<EulerSums>& experts) {
  if (trace::token_group(input.one.problem, rank).front() != rank) return;
  const base::HostTensor& ids = *rank_trace(input, rank)->tensor("router/ids_TK");
  const Shown score(input, rank, "router/scores_TK"), grad(input, rank, "grad/scores_TK");
  for (Dim i = 0; i < ids.numel(); ++i)
    if (const Dim e = ids.int_at(i); e >= 0 && e < static_cast<Dim>(experts.size()))
      experts[static_cast<std::size_t>(e)].score.add(score.at(i), grad.at(i), grad.bound(i));
}

}  // namespace

void InnerProduct::add(double a, double b, double bound_of_b) {
  value += a * b;
  magnitude += std::fabs(a * b);
  bound += std::fabs(a) * bound_of_b;
  ++terms;
}

double InnerProduct::total_bound() const {
  // A gradient that is NaN is wrong, not unbounded.
  if (std::isnan(magnitude)) return bound;
  return bound + tolerance::gamma(terms + 1, base::unit_roundoff(base::DType::kF64)) * magnitude;
}

std::vector<EulerSums> euler_sums(const CheckInput& input, bool has_scores) {
  std::vector<EulerSums> experts(static_cast<std::size_t>(input.one.problem.model.num_experts));
  const ParameterSide down{"experts/down_EDF", 0, &EulerSums::down}, up{"experts/gate_up_EGD", input.one.problem.model.d_ff, &EulerSums::up};
  for (Dim rank = 0; rank < input.one.world_size(); ++rank) {
    add_weights(input, rank, down, experts);
    add_weights(input, rank, up, experts);
    add_rows(input, rank, experts);
    if (has_scores) add_scores(input, rank, experts);
  }
  return experts;
}

}  // namespace moecheck::check
