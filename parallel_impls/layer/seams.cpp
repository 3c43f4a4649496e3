#include "parallel_impls/layer/seams.h"

#include <algorithm>

#include "parallel_impls/loaders/sound_checkpoint_seams.h"

namespace moecheck::parallel_impls {
namespace {

std::vector<ExpertsBackend>& backends() {
  static std::vector<ExpertsBackend> all;
  return all;
}

// Keeps (T, K): scores of experts that live elsewhere become 0, their ids the sentinel e.
RoutedSlots keep_shape_with_sentinels(const RoutedSlots& global, const LocalExperts& local) {
  const at::Tensor is_local = (global.ids_TK >= local.first).logical_and(global.ids_TK < local.first + local.count);
  return {global.scores_TK.masked_fill(is_local.logical_not(), 0.0),
          (global.ids_TK - local.first).masked_fill(is_local.logical_not(), local.count)};
}

// A plan names what it changes; a parameter that it does not name stays replicated.
std::vector<Style> styles_of_matching(const Plan& plan, std::string_view parameter) {
  std::vector<Style> styles;
  for (const PlanEntry& entry : plan)
    if (matches(entry, parameter)) styles.push_back(entry.style);
  return styles;
}

// Shards along any dimension travel as rows.
at::Tensor gather_shards(const at::Tensor& shard, model::Dim dim, const Rows& rows, const Meeting& where) {
  return gather_from_group(shard.transpose(0, dim).contiguous(), rows, where).transpose(0, dim).contiguous();
}

void sum_over_token_shards(LayerParams& gradients, Communicator& comm, const GradientDims& dims) {
  for (const ParamInfo& param : kTrainable)
    comm.all_reduce_sum(gradients.*param.member, param.name == kRouter ? dims.dense : dims.experts, tap_of("grad", param));
}

void fill_loading(Seams& seams) {
  seams.plan = [](const Plan& plan) { return plan; };
  seams.styles_of = styles_of_matching;
  seams.expert_range = contiguous_experts;
  seams.packed_rows = gate_and_up_pieces;
  seams.after_load = [](LayerParams&, Communicator&) {};
}

void fill_forward(Seams& seams) {
  seams.gather_parameter = gather_shards;
  seams.probabilities = [](const at::Tensor& logits_TE) { return at::softmax(logits_TE, -1, at::kFloat); };
  seams.shard_routing = keep_shape_with_sentinels;
  seams.find_backend = find_registered_backend;
  seams.enter_tokens = copy_to_group;
  seams.enter_scores = copy_to_group;
  seams.enter_slice = copy_to_group;
  seams.gather_scores = gather_from_group;
  seams.sent_keys = [](const at::Tensor& keys_N3) { return keys_N3; };
  seams.returned_to = [](const at::Tensor& token_N) { return token_N; };
  seams.combine = reduce_from_group;
}

void fill_training(Seams& seams) {
  seams.sync_gradients = sum_over_token_shards;
  seams.is_owned = [](std::string_view) { return true; };
  seams.norm_dims = [](std::string_view, const std::vector<model::Cut>& cuts) { return dims_of(cuts); };
  seams.after_step = [](LayerParams&, Communicator&) {};
}

}  // namespace

std::pair<model::Dim, model::Dim> contiguous_experts(model::Dim num_experts, const ShardContext& shard) {
  const model::Dim count = num_experts / shard.size;
  return {shard.coordinate * count, count};
}

Ranges gate_and_up_pieces(model::Dim packed_rows, const ShardContext& shard) {
  const model::Dim half = packed_rows / 2;
  const model::Dim piece = half / shard.size;
  return {{shard.coordinate * piece, piece}, {half + shard.coordinate * piece, piece}};
}

ScoreRule score_rule(model::ScorePosition position) {
  const auto untouched = [](const at::Tensor& rows_ND, const at::Tensor&) { return rows_ND; };
  const auto multiplied = [](const at::Tensor& rows_ND, const at::Tensor& scores_N) { return rows_ND * scores_N.unsqueeze(1); };
  if (position == model::ScorePosition::kBeforeExperts) return {multiplied, untouched};
  return {untouched, multiplied};
}

ScoreRule no_scores() {
  const auto untouched = [](const at::Tensor& rows_ND, const at::Tensor&) { return rows_ND; };
  return {untouched, untouched};
}

Seams sound_seams() {
  Seams seams;
  fill_loading(seams);
  fill_checkpointing(seams);
  fill_forward(seams);
  fill_training(seams);
  return seams;
}

const ExpertsBackend* find_registered_backend(std::string_view name) {
  const auto found = std::ranges::find(backends(), name, &ExpertsBackend::name);
  return found == backends().end() ? nullptr : &*found;
}

std::vector<std::string> backend_names() {
  std::vector<std::string> names;
  for (const ExpertsBackend& backend : backends()) names.push_back(backend.name);
  std::ranges::sort(names);
  return names;
}

bool register_backend(ExpertsBackend backend) {
  MOECHECK_REQUIRE(find_registered_backend(backend.name) == nullptr, backend.name);
  backends().push_back(std::move(backend));
  return true;
}

}  // namespace moecheck::parallel_impls
