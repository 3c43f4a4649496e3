// The seams of a parallel MoE layer: every place where an implementation decides something that is known to go wrong.
// A sound implementation fills them with the functions declared here; a fault replaces some of them and nothing else.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include "harness/cases/case.h"
#include "harness/checkpoint/format.h"
#include "parallel_impls/comm/autograd_collectives.h"
#include "parallel_impls/layer/params.h"
#include "parallel_impls/layer/state.h"
#include "parallel_impls/layer/tapper.h"

namespace moecheck::parallel_impls {

// Where a rank stands in the mesh dimension that a parameter is sharded over.
struct ShardContext {
  model::Dim coordinate = 0;   // mesh-local rank
  model::Dim size = 1;
  model::Dim local_rank = 0;   // LOCAL_RANK: the device index where there are devices
};

// Scores and ids as the local experts are given them; global ids in, local ids out.
struct RoutedSlots {
  at::Tensor scores_TK;
  at::Tensor ids_TK;
};

// What the routing weight multiplies: the rows that an expert is given, or those that it returns.
struct ScoreRule {
  std::function<at::Tensor(const at::Tensor& x_ND, const at::Tensor& scores_N)> rows;
  std::function<at::Tensor(const at::Tensor& out_ND, const at::Tensor& scores_N)> weighted;
};
ScoreRule score_rule(model::ScorePosition position);
ScoreRule no_scores();   // they are applied elsewhere

struct ExpertsInput {
  at::Tensor x_TD;
  RoutedSlots slots;
  LocalExperts local;
  at::Tensor gate_up_EGD;
  at::Tensor down_EDF;
  ScoreRule scores;
  model::Activation activation;
};

// Rows are listed with their keys; rows that were computed only as padding carry expert -1.
struct ExpertsOutput {
  at::Tensor partial_TD;
  at::Tensor rows_R3;      // row of x_TD, slot, local expert
  // In the order of rows_R3, in as many pieces as the backend computes them: a backward leaves its gradients on the pieces.
  std::vector<at::Tensor> in_RD = {};
  std::vector<at::Tensor> gate_up_RG = {};
  std::vector<at::Tensor> act_RF = {};
  std::vector<at::Tensor> out_RD = {};
};

struct ExpertsBackend {
  std::string name;
  std::function<ExpertsOutput(const ExpertsInput&)> forward;
};

// Over which mesh dimensions gradients of replicated parameters are summed after autograd: those that hold different tokens.
struct GradientDims {
  std::string dense;
  std::string experts;
};

struct Seams {
  // Loading: which parameters are sharded, and how.
  std::function<Plan(const Plan& plan)> plan;   // the one in force
  std::function<std::vector<Style>(const Plan& plan, std::string_view parameter)> styles_of;
  // The experts that a rank keeps of a parameter with `num_experts` experts; called once a parameter.
  std::function<std::pair<model::Dim, model::Dim>(model::Dim num_experts, const ShardContext&)> expert_range;
  // Rows of a packed [gate; up] dimension that a rank keeps.
  std::function<Ranges(model::Dim packed_rows, const ShardContext&)> packed_rows;
  // After the local shards are in place.
  std::function<void(LayerParams&, Communicator&)> after_load;

  // Checkpoints.
  // Whether ranks hold different parts of a tensor that is "full" to them: then no rank's copy is everyone's.
  std::function<bool(const PlacedTensor&)> is_rank_unique;
  // Whether a load fills it: a tensor of the optimizer or of the training's progress.
  std::function<bool(std::string_view tensor)> is_restored;
  // What of the checkpoint goes into a tensor: its name there, and the global indices.
  std::function<std::pair<std::string, Kept>(const PlacedTensor&)> stored_as;
  // The shards of a stored tensor that a rank reads, of those that have what it keeps.
  std::function<std::vector<checkpoint::Shard>(const checkpoint::ShardedTensor&, model::Dim rank)> shards_to_read;
  // What a rank hands to the saver.
  std::function<std::vector<PlacedTensor>(std::vector<PlacedTensor>)> saved_state;
  // The global tensor of which every rank has a part.
  std::function<at::Tensor(const PlacedTensor&, Communicator&)> gather_whole;

  // Forward.
  // A parameter that fsdp shards, whole for the forward; its gradient is reduce-scattered. rows: of each rank's shard along dim.
  std::function<at::Tensor(const at::Tensor& shard, model::Dim dim, const Rows& rows, const Meeting&)> gather_parameter;
  // Probabilities over all experts, in fp32.
  std::function<at::Tensor(const at::Tensor& logits_TE)> probabilities;
  std::function<RoutedSlots(const RoutedSlots& global, const LocalExperts&)> shard_routing;
  std::function<const ExpertsBackend*(std::string_view name)> find_backend;   // nullptr: there is none
  // Where a replicated tensor enters the sharded part: what its backward must sum. Tokens and routing weights.
  std::function<at::Tensor(const at::Tensor& x_TD, const Meeting&)> enter_tokens;
  std::function<at::Tensor(const at::Tensor& scores_TK, const Meeting&)> enter_scores;
  // Where each rank takes its slice of replicated tokens or scores.
  std::function<at::Tensor(const at::Tensor& whole, const Meeting&)> enter_slice;
  // Routing weights of all ranks' tokens.
  std::function<at::Tensor(const at::Tensor& scores_TK, const Rows& rows, const Meeting&)> gather_scores;
  // Keys (token, slot, expert) of the rows that are sent to other ranks, in the order in which their tokens are sent.
  std::function<at::Tensor(const at::Tensor& keys_N3)> sent_keys;
  // Where a row that came back belongs: row of the partial sum.
  std::function<at::Tensor(const at::Tensor& token_N)> returned_to;
  // The sum of the ranks' partial outputs.
  std::function<at::Tensor(const at::Tensor& partial_TD, const Meeting&)> combine;

  // Backward: gradients of replicated parameters, after autograd, over the ranks with other tokens. The loss is a sum over tokens.
  std::function<void(LayerParams& gradients, Communicator&, const GradientDims&)> sync_gradients;

  // Step.
  std::function<bool(std::string_view parameter)> is_owned;   // by the optimizer
  // Mesh dimensions over which a parameter's squares are summed for the global norm: those that it is sharded over.
  std::function<std::string(std::string_view parameter, const std::vector<model::Cut>&)> norm_dims;
  // After the optimizer's step, before the parameters are rounded from their masters.
  std::function<void(LayerParams& masters, Communicator&)> after_step;
};

Seams sound_seams();

// The sound functions, for faults that change one of them slightly.
std::pair<model::Dim, model::Dim> contiguous_experts(model::Dim num_experts, const ShardContext& shard);
Ranges gate_and_up_pieces(model::Dim packed_rows, const ShardContext& shard);

const ExpertsBackend* find_registered_backend(std::string_view name);
std::vector<std::string> backend_names();
bool register_backend(ExpertsBackend backend);

}  // namespace moecheck::parallel_impls

#define MOECHECK_REGISTER_BACKEND(...) \
  [[maybe_unused]] static const bool moecheck_registered_backend = ::moecheck::parallel_impls::register_backend(__VA_ARGS__)
