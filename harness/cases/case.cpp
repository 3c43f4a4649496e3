#include "harness/cases/case.h"

#include <algorithm>
#include <array>
#include <cmath>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "harness/base/nearest_name.h"
#include "harness/cases/fields.h"

namespace moecheck::cases {
namespace {

using base::Error;
using base::ErrorCode;
using model::Dim;

// Error::where names the knob.
Error blame(std::string_view knob, std::string message) { return {ErrorCode::kUsage, std::move(message), std::string(knob)}; }

base::Status check_sizes(const Case& one) {
  const model::ModelSpec& m = one.problem.model;
  if (m.top_k > m.num_experts)
    return blame("top_k", fmt::format("top_k={} is more than experts={}; use at most {}", m.top_k, m.num_experts, m.num_experts));
  return base::Ok{};
}

// Of values=exact (harness/inputs/generator.h).
constexpr double kLargestExactGate = 128;

// Whether a subject supports a layout is for the subject to say; these are no layouts at all.
base::Status check_layout(const Case& one) {
  const auto& dims = one.problem.token_dims;
  for (std::size_t i = 0; i < dims.size(); ++i)
    if (std::ranges::find(dims.begin(), dims.begin() + static_cast<std::ptrdiff_t>(i), dims[i]) != dims.begin() + static_cast<std::ptrdiff_t>(i))
      return blame("tokens_over", fmt::format("tokens_over names {} twice", dims[i]));
  for (const std::string_view dim : {"dp", "fsdp"})
    if (one.problem.mesh.size(dim) > 1 && !one.problem.shards_tokens(dim))
      return blame("tokens_over", fmt::format("mesh {} has {}, which is data parallelism: tokens_over must name it", one.problem.mesh.text(), dim));
  if (one.problem.expert_tp == model::ExpertTp::kOne && one.problem.mesh.size("tp") == 1)
    return blame("expert_tp", fmt::format("expert_tp=one lends tp to expert parallelism, and mesh {} has no tp", one.problem.mesh.text()));
  return base::Ok{};
}

constexpr std::array<std::string_view, 4> kPhaseOrder = {"load", "forward", "backward", "step"};

// load, forward, backward, step: any number of them from the first on.
base::Status check_phases(const Case& one) {
  for (std::size_t i = 0; i < one.phases.size(); ++i)
    if (i >= kPhaseOrder.size() || one.phases[i] != kPhaseOrder[i])
      return blame("phases", fmt::format("phases are {} in this order, each once, from the first on; found {}", fmt::join(kPhaseOrder, ", "),
                                         fmt::join(one.phases, ", ")));
  if (one.has_phase("step")) return base::Ok{};
  if (one.training.steps > 1) return blame("steps", fmt::format("steps={} needs the phase step", one.training.steps));
  if (one.training.microbatches > 1)
    return blame("microbatches", fmt::format("microbatches={} needs the phase step", one.training.microbatches));
  return base::Ok{};
}

base::Status check_values(const Case& one) {
  const model::ModelSpec& m = one.problem.model;
  const bool exact = one.problem.values == model::Values::kExact;
  const bool designed = exact || one.problem.values == model::Values::kProvenance || one.problem.routing != model::Routing::kNatural;
  // Designed routing writes one routing code per expert into the first columns of a token, and exact mode one constant.
  if (designed && m.d_model < m.num_experts + 1)
    return blame("d_model", fmt::format("designed routing and values need d_model > experts; d_model={} experts={}", m.d_model, m.num_experts));
  if (exact && (m.top_k & (m.top_k - 1)) != 0)
    return blame("values", fmt::format("values=exact needs top_k=1, 2, 4 or 8, so that the scores are powers of two; top_k={}", m.top_k));
  // A score of 1/4 leaves a gate pre-activation of 16, where silu(g) is no longer g.
  if (exact && one.problem.score_position == model::ScorePosition::kBeforeExperts && m.top_k > 2)
    return blame("values", fmt::format("values=exact with apply_scores=before_experts needs top_k=1 or 2; top_k={}", m.top_k));
  if (int exponent = 0; exact && std::frexp(m.routed_scale, &exponent) != 0.5)
    return blame("values", fmt::format("values=exact needs scores that are powers of two, and {} multiplies them by {}", m.family, m.routed_scale));
  if (exact && m.activation.limit < kLargestExactGate)
    return blame("values", fmt::format("values=exact has gates of {}, and the activation of {} is clamped at {}; use another value pattern",
                                       kLargestExactGate, m.family, m.activation.limit));
  if (exact && one.problem.routing == model::Routing::kTies)
    return blame("routing", "values=exact gives all chosen experts one score already; use another routing");
  if (one.problem.routing == model::Routing::kTies && m.top_k >= m.num_experts)
    return blame("routing", "routing=ties needs an expert beyond the top-k");
  if (one.problem.routing == model::Routing::kIdleExpert && m.top_k >= m.num_experts)
    return blame("routing", fmt::format("routing=idle_expert needs top_k < experts={}", m.num_experts));
  const Dim blocks = one.problem.mesh.has("ep") ? one.problem.mesh.size("ep") : 2;
  if (one.problem.routing == model::Routing::kIdleRank && (blocks < 2 || m.top_k > m.num_experts - m.num_experts / blocks))
    return blame("routing", fmt::format("routing=idle_rank leaves fewer than top_k={} experts; use fewer or more ranks", m.top_k));
  return base::Ok{};
}

// Whether a subject can save so is for it to say; these make no sense.
base::Status check_checkpointing(const Case& one) {
  const Checkpointing& c = one.checkpointing;
  const Dim steps = one.has_phase("step") ? one.training.steps : 0;
  if (c.save == SaveFormat::kNone) {
    if (!c.restarts.empty()) return blame("restart", "a restart loads what was saved before; name a format with save");
    if (c.save_after > 0) return blame("save_after", "nothing is saved; name a format with save");
    if (c.crash != CrashPoint::kNone) return blame("crash", "a crash is in a save; name a format with save");
    return base::Ok{};
  }
  for (const Layout& layout : c.restarts) {
    Case later = one;
    if (!layout.is_back) later.problem.mesh = layout.mesh;
    for (const auto check : {check_layout, check_values})
      if (auto checked = check(later); !checked) return blame("restart", fmt::format("on {}: {}", layout.mesh.text(), checked.error().message));
  }
  if (c.save_after > steps) return blame("save_after", fmt::format("save_after={} is more than the {} steps of the case", c.save_after, steps));
  if (c.save == SaveFormat::kHuggingFace && c.save_after > 0 && !c.restarts.empty())
    return blame("save_after", "save=huggingface has the weights only, from which no training can go on; use save=sharded, save_after=0, or no restart");
  if (c.crash == CrashPoint::kNone) return base::Ok{};
  if (c.save_after >= steps) return blame("crash", fmt::format("the crash is in the save after step {}; use steps={} or more", c.save_after + 1, c.save_after + 1));
  if (c.restarts.empty()) return blame("crash", "a crash needs a restart, which loads the last good checkpoint");
  if (c.crash_rank && *c.crash_rank >= one.world_size())
    return blame("crash_rank", fmt::format("crash_rank={} is no rank of mesh {}", *c.crash_rank, one.problem.mesh.text()));
  return base::Ok{};
}

void take_family(model::ModelSpec& into, const model::ModelSpec& family, const KnobValues& knobs) {
  const auto unset = [&](std::string_view knob) { return knobs.find(knob) == knobs.end(); };
  if (unset("experts")) into.num_experts = family.num_experts;
  if (unset("top_k")) into.top_k = family.top_k;
  if (unset("d_model")) into.d_model = family.d_model;
  if (unset("d_ff")) into.d_ff = family.d_ff;
  if (unset("softmax")) into.score_function = family.score_function;
  if (unset("renormalise")) into.renormalise = family.renormalise;
  into.routed_scale = family.routed_scale;
  into.activation = family.activation;
  into.names = family.names;
}

}  // namespace

double Case::learning_rate_of(Dim step) const {
  double rate = training.learning_rate;
  for (Dim earlier = 0; earlier < step; ++earlier) rate *= training.lr_decay;
  return rate;
}

bool Case::has_phase(std::string_view phase) const { return std::ranges::find(phases, phase) != phases.end(); }

base::Result<Case> make_case(const KnobValues& knobs, const FamilyLoader& load_family) {
  for (const auto& [name, text] : knobs)
    if (find_field(name) == nullptr) return blame(name, fmt::format("unknown knob '{}'{}", name, base::suggestion(name, field_names())));
  Case one;
  for (const Field& field : fields()) {
    const auto given = knobs.find(field.name);
    if (given == knobs.end() && field.default_text.empty()) {
      if (field.yaml_place == "override") continue;
      return blame(field.name, fmt::format("{} is missing; name {}", field.name, field.doc));
    }
    auto canonical = canonical_text(field, given == knobs.end() ? field.default_text : std::string_view(given->second));
    if (!canonical) return blame(field.name, fmt::format("{}: {}", field.name, canonical.error().message));
    if (auto set = field.set(one, *canonical); !set) return set.error();
  }
  auto family = load_family(one.problem.model.family);
  if (!family) return Error{family.error().code, family.error().text(), "model"};
  take_family(one.problem.model, *family, knobs);
  if (auto sizes = check_sizes(one); !sizes) return sizes.error();
  for (const auto check : {check_layout, check_phases, check_checkpointing, check_values})
    if (auto checked = check(one); !checked) return checked.error();
  return one;
}

std::vector<std::pair<std::string, std::string>> config_of(const Case& one) {
  std::vector<std::pair<std::string, std::string>> config;
  for (const Field& field : fields()) config.emplace_back(field.name, field.get(one));
  return config;
}

std::string case_id(const Case& one, const FamilyLoader& load_family) {
  Case plain;  // carries the family's values, to tell which ones were overridden
  if (auto family = load_family(one.problem.model.family)) plain.problem.model = *family;
  std::string id;
  for (const Field& field : fields()) {
    const std::string value = field.get(one);
    const std::string usual = field.yaml_place == "override" ? field.get(plain) : std::string(field.default_text);
    if (field.always_in_id || value != usual) id += fmt::format("{}{}={}", id.empty() ? "" : " ", field.name, value);
  }
  return id;
}

base::Result<KnobValues> parse_case_id(std::string_view id) {
  KnobValues knobs;
  while (!id.empty()) {
    const auto blank = id.find(' ');
    const std::string_view part = id.substr(0, blank);
    id.remove_prefix(blank == std::string_view::npos ? id.size() : blank + 1);
    if (part.empty()) continue;
    const auto equals = part.find('=');
    if (equals == std::string_view::npos)
      return blame(part, fmt::format("'{}' in a case id is not knob=value", part));
    const std::string name(part.substr(0, equals));
    if (find_field(name) == nullptr) return blame(name, fmt::format("unknown knob '{}'{}", name, base::suggestion(name, field_names())));
    if (!knobs.emplace(name, part.substr(equals + 1)).second) return blame(name, fmt::format("a case id names '{}' twice", name));
  }
  return knobs;
}

}  // namespace moecheck::cases
