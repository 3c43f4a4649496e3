#include "harness/trace/trace.h"

#include <fmt/format.h>

#include "harness/base/files.h"

namespace moecheck::trace {
namespace {

using base::Error;
using base::ErrorCode;
using base::Json;

// The step after batch b leaves the parameters that batch b + 1 begins with.
constexpr std::string_view kStepped = "optim/param/";
constexpr std::string_view kParam = "param/";
constexpr std::string_view kLoad = "load";
constexpr std::string_view kSave = "save";
constexpr std::string_view kStep = "step";

std::filesystem::path rank_file(const std::filesystem::path& trace_dir, std::string_view folder, model::Dim rank) {
  return trace_dir / std::string(folder) / fmt::format("rank{}.safetensors", rank);
}

base::Result<std::vector<model::Cut>> cuts_from_json(const Json& json) {
  std::vector<model::Cut> cuts;
  for (const Json& pair : json) {
    auto placement = model::Placement::parse(pair.at(1).get<std::string>());
    if (!placement) return placement.error();
    cuts.push_back({pair.at(0).get<std::string>(), *placement});
  }
  return cuts;
}

Json to_json(const std::vector<model::Cut>& cuts) {
  Json json = Json::array();
  for (const model::Cut& cut : cuts) json.push_back({cut.mesh_dim, cut.placement.text()});
  return json;
}

base::Result<Tapped> read_tap(const std::string& name, const base::HostTensor& tensor, const Json& taps) {
  Tapped tapped{tensor, {}, tensor.shape()};
  if (!taps.contains(name)) return tapped;
  const Json& about = taps[name];
  auto cuts = cuts_from_json(about.value("cuts", Json::array()));
  if (!cuts) return Error{ErrorCode::kDamaged, fmt::format("tap '{}': {}", name, cuts.error().message), ""};
  tapped.cuts = *std::move(cuts);
  tapped.global_shape = about.value("global_shape", tensor.shape());
  return tapped;
}

base::Result<std::vector<PlanEntry>> read_plan(const Json& json) {
  std::vector<PlanEntry> plan;
  for (const Json& entry : json) {
    auto cuts = cuts_from_json(entry.value("cuts", Json::array()));
    if (!cuts) return Error{ErrorCode::kDamaged, fmt::format("plan: {}", cuts.error().message), ""};
    plan.push_back({entry.at("pattern").get<std::string>(), entry.at("style").get<std::string>(), *std::move(cuts),
                    entry.value("parameters", std::vector<std::string>{})});
  }
  return plan;
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
    for (const Json& one : about->value("comm", Json::array())) rank.comm.push_back(collective_from_json(one));
    for (const Json& one : about->value("declared_comm", Json::array())) rank.declared_comm.push_back(declared_from_json(one));
    auto plan = read_plan(about->value("plan", Json::array()));
    if (!plan) return Error{plan.error().code, plan.error().message, path.string()};
    if (!plan->empty()) rank.plan = *std::move(plan);
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

std::string phase_folder(std::string_view phase, model::Dim batch) {
  return batch == 0 ? std::string(phase) : fmt::format("{}.{}", phase, batch);
}

base::Status write_rank_phase(const std::filesystem::path& trace_dir, std::string_view phase_folder, const RankTrace& rank,
                              const std::map<std::string, model::Dim>& coordinate) {
  Json about = {{"rank", rank.rank},       {"coordinate", coordinate},
                {"aborted", rank.aborted}, {"implementation", rank.implementation},
                {"experts_backend", rank.experts_backend}, {"taps", Json::object()}};
  for (const Collective& one : rank.comm) about["comm"].push_back(to_json(one));
  for (const DeclaredCollective& one : rank.declared_comm) about["declared_comm"].push_back(to_json(one));
  for (const PlanEntry& entry : rank.plan)
    about["plan"].push_back({{"pattern", entry.pattern}, {"style", entry.style}, {"cuts", to_json(entry.cuts)}, {"parameters", entry.parameters}});
  std::vector<NamedTensor> tensors;
  for (const auto& [name, tapped] : rank.taps) {
    tensors.push_back({name, tapped.tensor});
    about["taps"][name] = {{"cuts", to_json(tapped.cuts)}, {"global_shape", tapped.global_shape}};
  }
  const std::filesystem::path path = rank_file(trace_dir, phase_folder, rank.rank);
  if (auto made = base::make_folders(path.parent_path()); !made) return made.error();
  return write_safetensors(path, tensors, {{"moecheck", about.dump()}});
}

std::filesystem::path life_folder(const std::filesystem::path& trace_dir, std::size_t life) {
  return life == 0 ? trace_dir : trace_dir / fmt::format("life{}", life);
}

std::filesystem::path saves_folder(const std::filesystem::path& life_folder) { return life_folder / "saved"; }

base::Result<Trace> read_phase(const std::filesystem::path& trace_dir, std::string_view phase_folder, model::Dim num_ranks) {
  Trace trace;
  for (model::Dim r = 0; r < num_ranks; ++r) {
    RankTrace rank;
    rank.rank = r;
    const std::filesystem::path path = rank_file(trace_dir, phase_folder, r);
    if (std::filesystem::exists(path))
      if (auto merged = merge_phase(path, rank); !merged) return merged.error();
    trace.ranks.push_back(std::move(rank));
  }
  return trace;
}

namespace {

// The phases of a batch in the order in which they ran: a save comes after the load, or after the batch that ends its step.
std::vector<std::string> folders_of(const TraceExtent& extent, model::Dim batch) {
  std::vector<std::string> folders;
  for (const std::string& phase : extent.phases) {
    if (phase != kLoad) {
      folders.push_back(phase_folder(phase, batch));
    } else if (batch == extent.first_batch) {
      folders.push_back(phase);
      folders.push_back(phase_folder(kSave, batch));
    }
  }
  folders.push_back(phase_folder(kSave, batch + 1));
  return folders;
}

base::Result<RankTrace> read_rank(const std::filesystem::path& trace_dir, const TraceExtent& extent, model::Dim rank_id, model::Dim batch) {
  RankTrace rank;
  rank.rank = rank_id;
  for (const std::string& folder : folders_of(extent, batch)) {
    const std::filesystem::path path = rank_file(trace_dir, folder, rank_id);
    if (!std::filesystem::exists(path)) continue;
    if (auto merged = merge_phase(path, rank); !merged) return merged.error();
    // The optimizer's state as loaded is what the batch before left, not what this one's step did.
    if (folder == kLoad) std::erase_if(rank.taps, [](const auto& tap) { return !tap.first.starts_with(kParam); });
  }
  return rank;
}

// As a step would have left it.
Trace stepped(Trace loaded) {
  for (RankTrace& rank : loaded.ranks)
    for (const auto& [name, tapped] : std::map(rank.taps))
      if (name.starts_with(kParam)) rank.taps.insert_or_assign(std::string(kStepped) + name.substr(kParam.size()), tapped);
  return loaded;
}

bool is_stepped(const RankTrace& rank) {
  const auto found = rank.taps.lower_bound(kStepped);
  return found != rank.taps.end() && found->first.starts_with(kStepped);
}

// What the parameters of a batch are, given those of the batch before. Those that a step left and did not show are not known, unless the
// batch itself shows what it begins with.
void take_parameters(const RankTrace& before, bool took_step, RankTrace& rank) {
  const std::string_view prefix = is_stepped(before) ? kStepped : kParam;
  const bool is_known = is_stepped(before) || !took_step;
  for (const auto& [name, tapped] : before.taps)
    if (is_known && name.starts_with(prefix)) rank.taps.insert_or_assign(std::string(kParam) + name.substr(prefix.size()), tapped);
  rank.plan = before.plan;
}

}  // namespace

base::Result<std::vector<Trace>> read_trace(const std::filesystem::path& trace_dir, const TraceExtent& extent) {
  std::vector<Trace> batches(static_cast<std::size_t>(extent.num_batches));
  if (extent.first_batch > 0) {
    auto loaded = read_phase(trace_dir, kLoad, extent.num_ranks);
    if (!loaded) return loaded.error();
    batches[static_cast<std::size_t>(extent.first_batch - 1)] = stepped(*std::move(loaded));
  }
  for (model::Dim b = extent.first_batch; b < extent.num_batches; ++b)
    for (model::Dim r = 0; r < extent.num_ranks; ++r) {
      auto rank = read_rank(trace_dir, extent, r, b);
      if (!rank) return rank.error();
      const bool took_step = b > extent.first_batch && std::filesystem::exists(rank_file(trace_dir, phase_folder(kStep, b - 1), r));
      if (b > 0) take_parameters(batches[static_cast<std::size_t>(b - 1)].ranks[static_cast<std::size_t>(r)], took_step, *rank);
      batches[static_cast<std::size_t>(b)].ranks.push_back(*std::move(rank));
    }
  return batches;
}

}  // namespace moecheck::trace
