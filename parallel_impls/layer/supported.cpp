#include "parallel_impls/layer/supported.h"

#include <algorithm>

#include <fmt/ranges.h>

namespace moecheck::parallel_impls {
namespace {

using model::Dim;

// at::_grouped_mm wants rows of its operands to begin at multiples of this.
constexpr Dim kGroupedAlignmentBytes = 16;

void refuse_unaligned_groups(const cases::Case& one) {
  const auto item = static_cast<Dim>(base::itemsize(one.problem.dtype));
  const Dim local_f = one.problem.model.d_ff / (one.problem.cuts_experts() ? one.problem.mesh.size("tp") : 1);
  if (one.problem.model.d_model * item % kGroupedAlignmentBytes != 0 || local_f * item % kGroupedAlignmentBytes != 0)
    throw Unsupported(fmt::format("grouped_mm needs d_model and the local d_ff ({} and {}) to fill multiples of {} bytes in {}",
                                  one.problem.model.d_model, local_f, kGroupedAlignmentBytes, base::knob_name(one.problem.dtype)));
}

}  // namespace

void refuse_unsupported_sizes(const cases::Case& one) {
  const model::ModelSpec& m = one.problem.model;
  const model::Mesh& mesh = one.problem.mesh;
  if (const Dim shards = mesh.size(one.problem.expert_dims()); m.num_experts % shards != 0)
    throw Unsupported(fmt::format("{} experts cannot be spread evenly over {}={}", m.num_experts, one.problem.expert_dims(), shards));
  if (const Dim tp = mesh.size("tp"); m.d_model % tp != 0 || (one.problem.cuts_experts() && m.d_ff % tp != 0))
    throw Unsupported(fmt::format("tp={} does not divide d_model={} and d_ff={}", tp, m.d_model, m.d_ff));
  if (one.experts_backend == "grouped_mm") refuse_unaligned_groups(one);
}

void require_tokens_over(const cases::Case& one, std::initializer_list<std::string_view> more) {
  for (const std::string& dim : one.problem.token_dims)
    if (dim != "dp" && dim != "fsdp" && one.problem.shards_tokens(dim) && std::ranges::find(more, dim) == more.end())
      throw Unsupported(fmt::format("{} does not support tokens that are sharded over {}", one.impl, dim));
}

void require_own_tp(const cases::Case& one) {
  if (one.problem.expert_tp == model::ExpertTp::kOne) throw Unsupported(fmt::format("{} does not support expert_tp=one", one.impl));
}

}  // namespace moecheck::parallel_impls
