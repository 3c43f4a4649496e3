#include "parallel_impls/plugin_host/registered_params.h"

#include <algorithm>
#include <stdexcept>

#include "harness/base/nearest_name.h"
#include "harness/trace/layout.h"
#include "parallel_impls/loaders/slices.h"

namespace moecheck::parallel_impls {
namespace {

using model::Cut;
using model::Dim;

std::string_view trimmed(std::string_view text) {
  while (text.starts_with(' ')) text.remove_prefix(1);
  while (text.ends_with(' ')) text.remove_suffix(1);
  return text;
}

Cut parse_cut(std::string_view text) {
  constexpr std::string_view kOver = " over ";
  const auto over = text.find(kOver);
  const std::string_view dims = over == std::string_view::npos ? "" : trimmed(text.substr(over + kOver.size()));
  if (dims.empty())
    throw std::invalid_argument(fmt::format("'{}' is no cut; write them as in \"Shard(0) over ep; StridedShard(1,2) over tp\"", text));
  auto placement = model::Placement::parse(trimmed(text.substr(0, over)));
  if (!placement) throw std::invalid_argument(placement.error().text());
  return {std::string(dims), *placement};
}

const ParamInfo& find_param(const std::string& tap) {
  std::vector<std::string> known;
  for (const ParamInfo& param : kAllParams) {
    if (tap_of("param", param) == tap) return param;
    known.push_back(tap_of("param", param));
  }
  throw std::invalid_argument(fmt::format("there is no parameter '{}'{}", tap, base::suggestion(tap, known)));
}

bool is_sharding(const Cut& cut) {
  return cut.placement.kind == model::PlacementKind::kShard || cut.placement.kind == model::PlacementKind::kStridedShard;
}

// What held_indices demands.
void require_divisible(const Cut& cut, const base::Shape& global, const model::Mesh& mesh) {
  if (cut.placement.dim < 0 || cut.placement.dim >= static_cast<Dim>(global.size()))
    throw std::invalid_argument(fmt::format("{} of a tensor with {} dims", cut.placement.text(), global.size()));
  if (cut.placement.kind != model::PlacementKind::kStridedShard) return;
  const Dim size = global[static_cast<std::size_t>(cut.placement.dim)];
  if (cut.placement.blocks < 1 || size % (cut.placement.blocks * mesh.size(cut.mesh_dim)) != 0)
    throw std::invalid_argument(fmt::format("{} over {} does not divide {}", cut.placement.text(), cut.mesh_dim, size));
}

}  // namespace

std::vector<Cut> parse_cuts(std::string_view text) {
  std::vector<Cut> cuts;
  while (!trimmed(text).empty()) {
    const auto end = std::min(text.find(';'), text.size());
    cuts.push_back(parse_cut(trimmed(text.substr(0, end))));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return cuts;
}

base::Shape global_shape_of(base::Shape local, const std::vector<Cut>& cuts, const model::Mesh& mesh) {
  for (const Cut& cut : cuts) {
    if (!is_sharding(cut)) continue;
    if (cut.placement.dim < 0 || cut.placement.dim >= static_cast<Dim>(local.size()))
      throw std::invalid_argument(fmt::format("{} of a tensor with {} dims", cut.placement.text(), local.size()));
    local[static_cast<std::size_t>(cut.placement.dim)] *= mesh.size(cut.mesh_dim);
  }
  return local;
}

void RegisteredParams::add(const std::string& tap, const at::Tensor& value, const at::Tensor& grad, std::vector<Cut> cuts) {
  const ParamInfo& param = find_param(tap);
  if (has(param)) throw std::invalid_argument(fmt::format("'{}' is registered twice", tap));
  if (grad.defined() && param.name == kAttention)
    throw std::invalid_argument(fmt::format("'{}' takes no part in the layer and has no gradient", tap));
  if (!value.is_contiguous() || (grad.defined() && !grad.is_contiguous()))
    throw std::invalid_argument(fmt::format("'{}' is not dense", tap));
  if (grad.defined() && grad.sizes() != value.sizes())
    throw std::invalid_argument(fmt::format("'{}' has the shape {}, its gradient {}", tap, base::shape_text(value.sizes().vec()),
                                            base::shape_text(grad.sizes().vec())));
  const base::Shape global = trace::global_param_shape(problem_.model, tap);
  Kept kept;
  for (const Cut& cut : cuts) require_divisible(cut, global, problem_.mesh);
  for (std::size_t d = 0; d < global.size(); ++d)
    kept.push_back(ranges_of(model::held_indices(cuts, global[d], static_cast<Dim>(d), problem_.mesh, rank_)));
  if (kept_shape(kept) != base::Shape(value.sizes().vec()))
    throw std::invalid_argument(fmt::format("'{}' has the shape {}, its cuts leave {} to this rank", tap, base::shape_text(value.sizes().vec()),
                                            base::shape_text(kept_shape(kept))));
  values_.*param.member = value;
  gradients_.*param.member = grad;
  sharding_.cuts.emplace(param.name, std::move(cuts));
  sharding_.kept.emplace(param.name, std::move(kept));
}

std::vector<PlacedTensor> RegisteredParams::placed(std::string_view prefix, const LayerParams& tensors) const {
  std::vector<PlacedTensor> all;
  for (const ParamInfo& param : kAllParams) {
    if (!has(param) || !(tensors.*param.member).defined()) continue;
    all.push_back({tap_of(prefix, param), tensors.*param.member, sharding_.kept.find(param.name)->second, cuts_of(sharding_.cuts, param.name),
                   trace::global_param_shape(problem_.model, tap_of("param", param))});
  }
  return all;
}

}  // namespace moecheck::parallel_impls
