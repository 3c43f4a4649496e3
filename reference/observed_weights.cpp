#include "reference/observed_weights.h"

#include <algorithm>
#include <string>
#include <utility>

#include "harness/trace/layout.h"

namespace moecheck::reference {
namespace {

constexpr std::string_view kRouter = "param/router/w_ED";
constexpr std::string_view kGateUp = "param/experts/gate_up_EGD";
constexpr std::string_view kDown = "param/experts/down_EDF";

// The matrix, and whether every element of it was shown.
struct Assembled {
  Matrix<float> matrix;
  bool is_whole = false;
};

// Rows and columns of `tensor` from its flat index `first` on, into their global places that are not filled yet.
struct Shard {
  const base::HostTensor& tensor;
  Dim first;
  std::vector<Dim> rows;
  std::vector<Dim> columns;
};

class Assembly {
 public:
  Assembly(Dim rows, Dim columns) : matrix_(rows, columns), is_filled_(Matrix<std::uint8_t>::Zero(rows, columns)) {}

  void add(const Shard& shard) {
    Dim at = shard.first;
    for (const Dim row : shard.rows)
      for (const Dim column : shard.columns) {
        const double value = shard.tensor.at(at++);
        if (is_filled_(row, column) != 0) continue;
        matrix_(row, column) = static_cast<float>(value);
        is_filled_(row, column) = 1;
      }
  }
  Assembled take() { return {std::move(matrix_), (is_filled_.array() != 0).all()}; }

 private:
  Matrix<float> matrix_;
  Matrix<std::uint8_t> is_filled_;
};

const base::HostTensor* shown_shard(const model::Problem& problem, const trace::Trace& trace, std::string_view tap, Dim rank) {
  const base::HostTensor* tensor = trace.ranks[static_cast<std::size_t>(rank)].tensor(tap);
  if (tensor == nullptr || !base::is_floating(tensor->dtype())) return nullptr;
  const auto declared = trace::declared_shape(problem, tap, rank, {});
  return declared && tensor->shape() == *declared ? tensor : nullptr;
}

Assembled assembled_router(const model::Problem& problem, const trace::Trace& trace) {
  Assembly assembly(problem.model.num_experts, problem.model.d_model);
  for (Dim rank = 0; rank < static_cast<Dim>(trace.ranks.size()); ++rank)
    if (const auto* tensor = shown_shard(problem, trace, kRouter, rank))
      assembly.add({*tensor, 0, trace::declared_indices(problem, kRouter, rank, 0), trace::declared_indices(problem, kRouter, rank, 1)});
  return assembly.take();
}

Assembled assembled_expert(const model::Problem& problem, const trace::Trace& trace, std::string_view tap, Dim expert) {
  const base::Shape global = trace::global_param_shape(problem.model, tap);
  Assembly assembly(global[1], global[2]);
  for (Dim rank = 0; rank < static_cast<Dim>(trace.ranks.size()); ++rank) {
    const auto experts = trace::declared_indices(problem, tap, rank, 0);
    const auto found = std::ranges::find(experts, expert);
    const auto* tensor = found == experts.end() ? nullptr : shown_shard(problem, trace, tap, rank);
    if (tensor == nullptr) continue;
    const Dim first = (found - experts.begin()) * tensor->dim(1) * tensor->dim(2);
    assembly.add({*tensor, first, trace::declared_indices(problem, tap, rank, 1), trace::declared_indices(problem, tap, rank, 2)});
  }
  return assembly.take();
}

}  // namespace

ObservedWeights::ObservedWeights(const model::Problem& problem, const trace::Trace& trace) : problem_(problem), trace_(trace) {
  Assembled router = assembled_router(problem, trace);
  has_router_ = router.is_whole;
  router_ED_ = std::move(router.matrix);
}

bool ObservedWeights::has_expert(Dim expert_id) const {
  if (held_expert_ == expert_id) return is_held_whole_;
  Assembled gate_up = assembled_expert(problem_, trace_, kGateUp, expert_id);
  Assembled down = assembled_expert(problem_, trace_, kDown, expert_id);
  held_expert_ = expert_id;
  is_held_whole_ = gate_up.is_whole && down.is_whole;
  weights_ = {std::move(gate_up.matrix), std::move(down.matrix)};
  return is_held_whole_;
}

const ExpertWeights<float>& ObservedWeights::expert(Dim expert_id) {
  MOECHECK_REQUIRE(has_expert(expert_id), std::to_string(expert_id));
  return weights_;
}

}  // namespace moecheck::reference
