#include "harness/trace/trace.h"

#include <fmt/format.h>

#include "harness/base/files.h"

namespace moecheck::trace {
namespace {

using base::Error;
using base::ErrorCode;
using base::Json;

std::filesystem::path rank_file(const std::filesystem::path& trace_dir, std::string_view phase, model::Dim rank) {
  return trace_dir / std::string(phase) / fmt::format("rank{}.safetensors", rank);
}

base::Result<Tapped> read_tap(const std::string& name, const base::HostTensor& tensor, const Json& taps) {
  Tapped tapped{tensor, model::replicate(), "", tensor.shape()};
  if (!taps.contains(name)) return tapped;
  const Json& about = taps[name];
  auto placement = model::Placement::parse(about.value("placement", "Replicate"));
  if (!placement) return Error{ErrorCode::kDamaged, fmt::format("tap '{}': {}", name, placement.error().message), ""};
  tapped.placement = *placement;
  tapped.mesh_dim = about.value("mesh_dim", "");
  tapped.global_shape = about.value("global_shape", tensor.shape());
  return tapped;
}

base::Status merge_phase(const std::filesystem::path& path, RankTrace& rank) {
  auto file = read_safetensors(path);
  if (!file) return file.error();
  auto about = base::parse_json(file->metadata.contains("moecheck") ? file->metadata["moecheck"] : "{}", path.string());
  if (!about) return about.error();
  try {
    rank.aborted = rank.aborted || about->value("aborted", false);
    rank.implementation = about->value("implementation", rank.implementation);
    rank.experts_backend = about->value("experts_backend", rank.experts_backend);
    const Json taps = about->value("taps", Json::object());
    if (!taps.is_object()) return Error{ErrorCode::kDamaged, "metadata 'moecheck': taps is not an object", path.string()};
    for (const auto& [name, tensor] : file->tensors) {
      auto tapped = read_tap(name, tensor, taps);
      if (!tapped) return Error{tapped.error().code, tapped.error().message, path.string()};
      rank.taps.insert_or_assign(name, *std::move(tapped));
    }
  } catch (const Json::exception& e) {
    return Error{ErrorCode::kDamaged, fmt::format("metadata 'moecheck' has a wrong type: {}", e.what()), path.string()};
  }
  return base::Ok{};
}

}  // namespace

const Tapped* RankTrace::find(std::string_view name) const {
  const auto found = taps.find(name);
  return found == taps.end() ? nullptr : &found->second;
}

const base::HostTensor* RankTrace::tensor(std::string_view name) const {
  const Tapped* tapped = find(name);
  return tapped == nullptr ? nullptr : &tapped->tensor;
}

base::Status write_rank_phase(const std::filesystem::path& trace_dir, std::string_view phase, const RankTrace& rank,
                              const std::map<std::string, model::Dim>& coordinate) {
  Json about = {{"rank", rank.rank},       {"coordinate", coordinate},
                {"aborted", rank.aborted}, {"implementation", rank.implementation},
                {"experts_backend", rank.experts_backend}, {"taps", Json::object()}};
  std::vector<NamedTensor> tensors;
  for (const auto& [name, tapped] : rank.taps) {
    tensors.push_back({name, tapped.tensor});
    about["taps"][name] = {{"placement", tapped.placement.text()},
                           {"mesh_dim", tapped.mesh_dim},
                           {"global_shape", tapped.global_shape}};
  }
  const std::filesystem::path path = rank_file(trace_dir, phase, rank.rank);
  if (auto made = base::make_folders(path.parent_path()); !made) return made.error();
  return write_safetensors(path, tensors, {{"moecheck", about.dump()}});
}

base::Result<Trace> read_trace(const std::filesystem::path& trace_dir, const std::vector<std::string>& phases,
                               model::Dim num_ranks) {
  Trace trace;
  for (model::Dim r = 0; r < num_ranks; ++r) {
    RankTrace rank;
    rank.rank = r;
    for (const std::string& phase : phases) {
      const std::filesystem::path path = rank_file(trace_dir, phase, r);
      if (!std::filesystem::exists(path)) continue;
      if (auto merged = merge_phase(path, rank); !merged) return merged.error();
    }
    trace.ranks.push_back(std::move(rank));
  }
  return trace;
}

}  // namespace moecheck::trace
