#include "harness/cases/checkpoint_fields.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "harness/cases/field_text.h"

namespace moecheck::cases {
namespace {

using base::Ok;
using base::Status;
using model::Dim;

constexpr std::array kLoaders = {Named{Loader::kSliced, "sliced"}, Named{Loader::kFullThenShard, "full_then_shard"},
                                 Named{Loader::kRank0Broadcast, "rank0_broadcast"}};

constexpr std::array kWeightLayouts = {Named{WeightLayout::kPerExpert, "per_expert"}, Named{WeightLayout::kPacked, "packed"}};

constexpr std::array kSaveFormats = {Named{SaveFormat::kNone, "none"}, Named{SaveFormat::kSharded, "sharded"},
                                     Named{SaveFormat::kHuggingFace, "huggingface"}};

constexpr std::array kCrashPoints = {Named{CrashPoint::kNone, "none"},   Named{CrashPoint::kStaged, "staged"},
                                     Named{CrashPoint::kTorn, "torn"},   Named{CrashPoint::kFiles, "files"},
                                     Named{CrashPoint::kIndex, "index"}, Named{CrashPoint::kCommitted, "committed"}};

constexpr std::string_view kEverybody = "all";

// "ep=4", or "ep_fsdp@fsdp=2,ep=2"; canonical text only.
Layout layout_of(std::string_view text) {
  if (text == kBack) return {"", {}, true};
  const auto at = text.find('@');
  const std::string_view mesh = at == std::string_view::npos ? text : text.substr(at + 1);
  return {std::string(at == std::string_view::npos ? "" : text.substr(0, at)), model::Mesh::parse(mesh).value(), false};
}

std::string text_of(const Layout& layout) { return layout.is_back ? std::string(kBack) : (layout.impl.empty() ? "" : layout.impl + "@") + layout.mesh.text(); }

std::vector<Layout> layouts_of(std::string_view text) {
  std::vector<Layout> layouts;
  if (text == kNoRestart) return layouts;
  for (const std::string& part : split(text, '/')) layouts.push_back(layout_of(part));
  return layouts;
}

std::string text_of(const std::vector<Layout>& layouts) {
  std::string text;
  for (const Layout& layout : layouts) text += (text.empty() ? "" : "/") + text_of(layout);
  return text.empty() ? std::string(kNoRestart) : text;
}

}  // namespace

std::vector<Field> checkpoint_fields() {
  using F = FieldType;
  return {
      {"loader", "checkpoint", "loader", F::kChoice, "sliced", names_of(kLoaders), 0, 0, false, "how ranks load: sliced (each its part), full_then_shard, rank0_broadcast (tensor by tensor, what is not unique to a rank)",
       [](const Case& c) { return name_of(kLoaders, c.checkpointing.loader); },
       [](Case& c, std::string_view t) -> Status { c.checkpointing.loader = value_of(kLoaders, t); return Ok{}; }},
      {"weights", "checkpoint", "weights", F::kChoice, "per_expert", names_of(kWeightLayouts), 0, 0, false, "the checkpoint that a case begins with: gate, up and down of each expert apart, or packed over all experts",
       [](const Case& c) { return name_of(kWeightLayouts, c.checkpointing.weights); },
       [](Case& c, std::string_view t) -> Status { c.checkpointing.weights = value_of(kWeightLayouts, t); return Ok{}; }},
      {"weight_files", "checkpoint", "files", F::kInt, "1", {}, 1, 64, false, "files of that checkpoint, with an index from two on",
       [](const Case& c) { return std::to_string(c.checkpointing.weight_files); },
       [](Case& c, std::string_view t) -> Status { c.checkpointing.weight_files = parse_int(t).value(); return Ok{}; }},
      {"save", "checkpoint", "save", F::kChoice, "none", names_of(kSaveFormats), 0, 0, false, "what is saved: sharded, a training checkpoint with one file a rank; huggingface, the weights consolidated",
       [](const Case& c) { return name_of(kSaveFormats, c.checkpointing.save); },
       [](Case& c, std::string_view t) -> Status { c.checkpointing.save = value_of(kSaveFormats, t); return Ok{}; }},
      {"save_after", "checkpoint", "after", F::kInt, "0", {}, 0, 1000, false, "steps before the save; 0 saves what was loaded",
       [](const Case& c) { return std::to_string(c.checkpointing.save_after); },
       [](Case& c, std::string_view t) -> Status { c.checkpointing.save_after = parse_int(t).value(); return Ok{}; }},
      {"restart", "checkpoint", "restart", F::kLayoutList, kNoRestart, {}, 0, 0, false, "meshes of the lives that follow the save, [impl@]mesh or back, which is the first layout again: each loads what the one before saved and saves it again; the last takes the steps that are left",
       [](const Case& c) { return text_of(c.checkpointing.restarts); },
       [](Case& c, std::string_view t) -> Status { c.checkpointing.restarts = layouts_of(t); return Ok{}; }},
      {"controls", "checkpoint", "controls", F::kInt, "2", {}, 0, 20, false, "runs of all steps without a save, which a resumed one is compared with; two tell whether the subject repeats itself",
       [](const Case& c) { return std::to_string(c.checkpointing.controls); },
       [](Case& c, std::string_view t) -> Status { c.checkpointing.controls = parse_int(t).value(); return Ok{}; }},
      {"crash", "checkpoint", "crash", F::kChoice, "none", names_of(kCrashPoints), 0, 0, false, "where in the save after the next step ranks are killed: staged (nothing written), torn (half a file), files (no index), index (not renamed), committed",
       [](const Case& c) { return name_of(kCrashPoints, c.checkpointing.crash); },
       [](Case& c, std::string_view t) -> Status { c.checkpointing.crash = value_of(kCrashPoints, t); return Ok{}; }},
      {"crash_rank", "checkpoint", "crash_rank", F::kName, kEverybody, {}, 0, 0, false, "the rank that is killed, or all",
       [](const Case& c) { return c.checkpointing.crash_rank ? std::to_string(*c.checkpointing.crash_rank) : std::string(kEverybody); },
       [](Case& c, std::string_view t) -> Status {
         c.checkpointing.crash_rank.reset();
         if (t == kEverybody) return Ok{};
         auto rank = parse_int(t);
         if (!rank || *rank < 0) return base::Error{base::ErrorCode::kUsage, fmt::format("crash_rank: expected a rank or all, found '{}'", t), "crash_rank"};
         c.checkpointing.crash_rank = *rank;
         return Ok{};
       }},
  };
}

std::string_view crash_point_name(CrashPoint point) { return std::ranges::find(kCrashPoints, point, &Named<CrashPoint>::value)->name; }

std::optional<CrashPoint> find_crash_point(std::string_view name) {
  const auto found = std::ranges::find(kCrashPoints, name, &Named<CrashPoint>::name);
  return found == kCrashPoints.end() ? std::nullopt : std::optional(found->value);
}

}  // namespace moecheck::cases
