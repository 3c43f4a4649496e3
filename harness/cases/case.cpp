#include "harness/cases/case.h"

#include <algorithm>

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

std::string divisors_text(Dim number) {
  std::vector<Dim> divisors;
  for (Dim d = 1; d <= std::min<Dim>(number, 64); ++d)
    if (number % d == 0) divisors.push_back(d);
  return fmt::format("{}", fmt::join(divisors, ", "));
}

base::Status check_sizes(const Case& one) {
  const model::ModelSpec& m = one.problem.model;
  const model::Mesh& mesh = one.problem.mesh;
  if (m.top_k > m.num_experts)
    return blame("top_k", fmt::format("top_k={} is more than experts={}; use at most {}", m.top_k, m.num_experts, m.num_experts));
  if (const Dim ep = mesh.size("ep"); m.num_experts % ep != 0)
    return blame("mesh", fmt::format("mesh ep={} does not divide experts={}; use {}", ep, m.num_experts, divisors_text(m.num_experts)));
  if (const Dim tp = mesh.size("tp"); m.d_ff % tp != 0 || m.d_model % tp != 0)
    return blame("mesh", fmt::format("mesh tp={} does not divide d_ff={} and d_model={}; use a common divisor", tp, m.d_ff, m.d_model));
  if (mesh.has("fsdp") || mesh.has("sp"))
    return blame("mesh", fmt::format("mesh {}: dimensions fsdp and sp are not offered yet; use dp, ep and tp", mesh.text()));
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

void take_family(model::ModelSpec& into, const model::ModelSpec& family, const KnobValues& knobs) {
  const auto unset = [&](std::string_view knob) { return knobs.find(knob) == knobs.end(); };
  if (unset("experts")) into.num_experts = family.num_experts;
  if (unset("top_k")) into.top_k = family.top_k;
  if (unset("d_model")) into.d_model = family.d_model;
  if (unset("d_ff")) into.d_ff = family.d_ff;
  if (unset("softmax")) into.softmax = family.softmax;
  if (unset("renormalise")) into.renormalise = family.renormalise;
  into.names = family.names;
}

}  // namespace

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
  if (auto values = check_values(one); !values) return values.error();
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
