#include "harness/cases/fields.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "harness/base/nearest_name.h"
#include "harness/cases/checkpoint_fields.h"
#include "harness/cases/field_text.h"

namespace moecheck::cases {
namespace {

using base::Ok;
using base::Status;
using model::Dim;

// The setters below get canonical text only.
Dim int_of(std::string_view text) { return parse_int(text).value(); }

std::vector<Dim> ints_of(std::string_view text) {
  std::vector<Dim> numbers;
  for (const std::string& part : split(text, ',')) numbers.push_back(int_of(part));
  return numbers;
}

// from_chars and the shortest text that reads back: no locale, the same on every machine.
base::Result<double> parse_real(std::string_view text) {
  double value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc{} || end != text.data() + text.size() || text.empty() || !std::isfinite(value))
    return usage(fmt::format("expected a number, found '{}'", text));
  return value;
}

double real_of(std::string_view text) { return parse_real(text).value(); }

std::string real_text(double value) { return fmt::format("{}", value); }

constexpr std::array kValues = {Named{model::Values::kNormal, "normal"}, Named{model::Values::kExact, "exact"},
                                Named{model::Values::kProvenance, "provenance"}};

constexpr std::array kRoutings = {
    Named{model::Routing::kNatural, "natural"},      Named{model::Routing::kOneExpert, "one_expert"},
    Named{model::Routing::kIdleExpert, "idle_expert"}, Named{model::Routing::kIdleRank, "idle_rank"},
    Named{model::Routing::kKRanks, "k_ranks"},       Named{model::Routing::kOneRank, "one_rank"},
    Named{model::Routing::kTies, "ties"},            Named{model::Routing::kZipf, "zipf"}};

constexpr std::array kExpertTps = {Named{model::ExpertTp::kTp, "tp"}, Named{model::ExpertTp::kOne, "one"}};

constexpr std::array kScorePositions = {Named{model::ScorePosition::kAfterExperts, "after_experts"},
                                        Named{model::ScorePosition::kBeforeExperts, "before_experts"}};

constexpr std::array kOptimizers = {Named{OptimizerKind::kSgd, "sgd"}, Named{OptimizerKind::kAdamW, "adamw"}};

constexpr std::array kScoreFunctions = {Named{model::ScoreFunction::kSoftmaxBeforeTopk, "before_topk"},
                                        Named{model::ScoreFunction::kSoftmaxAfterTopk, "after_topk"},
                                        Named{model::ScoreFunction::kSigmoid, "sigmoid"}};

constexpr std::int64_t kMaxDim = 1 << 20;
constexpr std::int64_t kMaxSeed = std::numeric_limits<std::int64_t>::max();

void append(std::vector<Field>& table, const std::vector<Field>& rows) { table.insert(table.end(), rows.begin(), rows.end()); }

std::vector<Field> subject_fields() {
  using F = FieldType;
  return {
      {"impl", "", "impl", F::kName, "", {}, 0, 0, true, "implementation of the subject: ep_allreduce, ep_alltoall, ep_fsdp, ep_tp, tp_sharded, data_parallel, or one of its own",
       [](const Case& c) { return c.impl; }, [](Case& c, std::string_view t) -> Status { c.impl = t; return Ok{}; }},
      {"model", "", "model", F::kName, "", {}, 0, 0, true, "model family: a file in scenarios/models",
       [](const Case& c) { return c.problem.model.family; },
       [](Case& c, std::string_view t) -> Status { c.problem.model.family = t; return Ok{}; }},
      {"mesh", "", "mesh", F::kMesh, "none", {}, 0, 0, true, "ranks and their dimensions (dp, fsdp, ep, tp), first outermost: ep=2 or dp=2,ep=2; none for one rank",
       [](const Case& c) { return c.problem.mesh.text(); },
       [](Case& c, std::string_view t) -> Status { c.problem.mesh = model::Mesh::parse(t).value(); return Ok{}; }},
      {"dtype", "", "dtype", F::kChoice, "fp32", {"fp32", "bf16"}, 0, 0, true, "element type of weights and activations",
       [](const Case& c) { return std::string(base::knob_name(c.problem.dtype)); },
       [](Case& c, std::string_view t) -> Status { c.problem.dtype = base::dtype_from_knob(t).value(); return Ok{}; }},
      {"experts_backend", "", "experts_backend", F::kName, "eager", {}, 0, 0, false, "how a rank computes its experts: eager, batched_mm, grouped_mm",
       [](const Case& c) { return c.experts_backend; }, [](Case& c, std::string_view t) -> Status { c.experts_backend = t; return Ok{}; }},
      {"device", "", "device", F::kChoice, "cpu", {"cpu", "cuda"}, 0, 0, false, "where a rank's tensors live: cpu (Gloo) or cuda (NCCL)",
       [](const Case& c) { return c.device; }, [](Case& c, std::string_view t) -> Status { c.device = t; return Ok{}; }},
      {"expert_tp", "", "expert_tp", F::kChoice, "tp", names_of(kExpertTps), 0, 0, false, "what tp does to experts: tp cuts each of them; one (expert TP of 1) lends tp to expert parallelism",
       [](const Case& c) { return name_of(kExpertTps, c.problem.expert_tp); },
       [](Case& c, std::string_view t) -> Status { c.problem.expert_tp = value_of(kExpertTps, t); return Ok{}; }},
      {"apply_scores", "", "apply_scores", F::kChoice, "after_experts", names_of(kScorePositions), 0, 0, false, "where the routing weight meets the expert: on its output or on its input",
       [](const Case& c) { return name_of(kScorePositions, c.problem.score_position); },
       [](Case& c, std::string_view t) -> Status { c.problem.score_position = value_of(kScorePositions, t); return Ok{}; }},
      {"recompute", "", "recompute", F::kBool, "false", {}, 0, 0, false, "compute the experts' forward again in the backward (activation checkpointing)",
       [](const Case& c) { return std::string(c.is_recomputed ? "true" : "false"); },
       [](Case& c, std::string_view t) -> Status { c.is_recomputed = t == "true"; return Ok{}; }},
  };
}

std::vector<Field> problem_fields() {
  using F = FieldType;
  return {
      {"tokens", "tokens", "per_rank", F::kIntList, "7", {}, 0, kMaxDim, false, "tokens of each token shard, 0 allowed; cycled over the shards",
       [](const Case& c) { return fmt::format("{}", fmt::join(c.problem.tokens_per_rank, ",")); },
       [](Case& c, std::string_view t) -> Status { c.problem.tokens_per_rank = ints_of(t); return Ok{}; }},
      {"tokens_over", "tokens", "over", F::kNameList, "dp,fsdp", {"dp", "fsdp", "ep", "tp"}, 0, 0, false, "mesh dimensions that the tokens are sharded over, first outermost; ep is expert parallelism with all-to-all, tp is sequence parallelism",
       [](const Case& c) { return c.problem.token_dims_text(); },
       [](Case& c, std::string_view t) -> Status { c.problem.token_dims = split(t, ','); return Ok{}; }},
      {"routing", "tokens", "routing", F::kChoice, "natural", names_of(kRoutings), 0, 0, false, "which experts the tokens choose",
       [](const Case& c) { return name_of(kRoutings, c.problem.routing); },
       [](Case& c, std::string_view t) -> Status { c.problem.routing = value_of(kRoutings, t); return Ok{}; }},
      {"values", "tokens", "values", F::kChoice, "normal", names_of(kValues), 0, 0, false, "value pattern of weights and tokens",
       [](const Case& c) { return name_of(kValues, c.problem.values); },
       [](Case& c, std::string_view t) -> Status { c.problem.values = value_of(kValues, t); return Ok{}; }},
      {"experts", "override", "experts", F::kInt, "", {}, 1, 4096, false, "number of experts E",
       [](const Case& c) { return std::to_string(c.problem.model.num_experts); },
       [](Case& c, std::string_view t) -> Status { c.problem.model.num_experts = int_of(t); return Ok{}; }},
      {"top_k", "override", "top_k", F::kInt, "", {}, 1, 64, false, "experts per token K",
       [](const Case& c) { return std::to_string(c.problem.model.top_k); },
       [](Case& c, std::string_view t) -> Status { c.problem.model.top_k = int_of(t); return Ok{}; }},
      {"d_model", "override", "d_model", F::kInt, "", {}, 1, kMaxDim, false, "model dim D",
       [](const Case& c) { return std::to_string(c.problem.model.d_model); },
       [](Case& c, std::string_view t) -> Status { c.problem.model.d_model = int_of(t); return Ok{}; }},
      {"d_ff", "override", "d_ff", F::kInt, "", {}, 1, kMaxDim, false, "expert hidden dim F",
       [](const Case& c) { return std::to_string(c.problem.model.d_ff); },
       [](Case& c, std::string_view t) -> Status { c.problem.model.d_ff = int_of(t); return Ok{}; }},
      {"softmax", "override", "softmax", F::kChoice, "", names_of(kScoreFunctions), 0, 0, false, "softmax before or after the top-k, or a sigmoid in its place",
       [](const Case& c) { return name_of(kScoreFunctions, c.problem.model.score_function); },
       [](Case& c, std::string_view t) -> Status { c.problem.model.score_function = value_of(kScoreFunctions, t); return Ok{}; }},
      {"renormalise", "override", "renormalise", F::kBool, "", {}, 0, 0, false, "divide the K scores by their sum",
       [](const Case& c) { return std::string(c.problem.model.renormalise ? "true" : "false"); },
       [](Case& c, std::string_view t) -> Status { c.problem.model.renormalise = t == "true"; return Ok{}; }},
  };
}

std::vector<Field> training_fields() {
  using F = FieldType;
  return {
      {"steps", "train", "steps", F::kInt, "1", {}, 1, 1000, false, "training steps: forward, backward and step, again and again",
       [](const Case& c) { return std::to_string(c.training.steps); },
       [](Case& c, std::string_view t) -> Status { c.training.steps = int_of(t); return Ok{}; }},
      {"microbatches", "train", "microbatches", F::kInt, "1", {}, 1, 64, false, "forwards and backwards whose gradients are added up before a step",
       [](const Case& c) { return std::to_string(c.training.microbatches); },
       [](Case& c, std::string_view t) -> Status { c.training.microbatches = int_of(t); return Ok{}; }},
      {"optimizer", "train", "optimizer", F::kChoice, "sgd", names_of(kOptimizers), 0, 0, false, "sgd (with momentum) or adamw, both on fp32 master weights",
       [](const Case& c) { return name_of(kOptimizers, c.training.optimizer); },
       [](Case& c, std::string_view t) -> Status { c.training.optimizer = value_of(kOptimizers, t); return Ok{}; }},
      {"lr", "train", "lr", F::kReal, "0.015625", {}, 0, 1000, false, "learning rate",
       [](const Case& c) { return real_text(c.training.learning_rate); },
       [](Case& c, std::string_view t) -> Status { c.training.learning_rate = real_of(t); return Ok{}; }},
      {"lr_decay", "train", "lr_decay", F::kReal, "1", {}, 0, 1, false, "what the learning rate is multiplied with after each step",
       [](const Case& c) { return real_text(c.training.lr_decay); },
       [](Case& c, std::string_view t) -> Status { c.training.lr_decay = real_of(t); return Ok{}; }},
      {"momentum", "train", "momentum", F::kReal, "0.5", {}, 0, 1, false, "momentum of sgd",
       [](const Case& c) { return real_text(c.training.momentum); },
       [](Case& c, std::string_view t) -> Status { c.training.momentum = real_of(t); return Ok{}; }},
      {"weight_decay", "train", "weight_decay", F::kReal, "0.0625", {}, 0, 1000, false, "weight decay; decoupled in adamw",
       [](const Case& c) { return real_text(c.training.weight_decay); },
       [](Case& c, std::string_view t) -> Status { c.training.weight_decay = real_of(t); return Ok{}; }},
      {"clip_norm", "train", "clip_norm", F::kReal, "0", {}, 0, kMaxDim, false, "largest global norm of the gradients; 0 for no clipping",
       [](const Case& c) { return real_text(c.training.clip_norm); },
       [](Case& c, std::string_view t) -> Status { c.training.clip_norm = real_of(t); return Ok{}; }},
  };
}

std::vector<Field> run_fields() {
  using F = FieldType;
  return {
      {"seed", "", "seed", F::kInt, "1", {}, 0, kMaxSeed, false, "seed of every generated byte",
       [](const Case& c) { return std::to_string(c.problem.seed); },
       [](Case& c, std::string_view t) -> Status { c.problem.seed = static_cast<std::uint64_t>(int_of(t)); return Ok{}; }},
      {"phases", "", "phases", F::kNameList, "load,forward", {"load", "forward", "backward", "step"}, 0, 0, false, "what the subject is asked to do, in order; with step, from forward on once a step",
       [](const Case& c) { return fmt::format("{}", fmt::join(c.phases, ",")); },
       [](Case& c, std::string_view t) -> Status { c.phases = split(t, ','); return Ok{}; }},
      {"checks", "", "checks", F::kNameList, "all", {}, 0, 0, false, "checks to judge by; all means each that applies",
       [](const Case& c) { return fmt::format("{}", fmt::join(c.checks, ",")); },
       [](Case& c, std::string_view t) -> Status { c.checks = split(t, ','); return Ok{}; }},
      {"fault", "", "fault", F::kName, "none", {}, 0, 0, false, "a known bug to inject: `moecheck zoo list`",
       [](const Case& c) { return c.fault.empty() ? std::string("none") : c.fault; },
       [](Case& c, std::string_view t) -> Status { c.fault = t == "none" ? "" : std::string(t); return Ok{}; }},
  };
}

std::vector<Field> make_fields() {
  std::vector<Field> table = subject_fields();
  append(table, problem_fields());
  append(table, training_fields());
  append(table, checkpoint_fields());
  append(table, run_fields());
  return table;
}

base::Result<std::string> canonical_int(const Field& field, std::string_view text) {
  auto value = parse_int(text);
  if (!value) return value.error();
  if (*value < field.min || *value > field.max)
    return usage(fmt::format("expected a number from {} to {}, found {}", field.min, field.max, *value));
  return std::to_string(*value);
}

base::Result<std::string> canonical_real(const Field& field, std::string_view text) {
  auto value = parse_real(text);
  if (!value) return value.error();
  if (*value < static_cast<double>(field.min) || *value > static_cast<double>(field.max))
    return usage(fmt::format("expected a number from {} to {}, found {}", field.min, field.max, *value));
  return real_text(*value);
}

bool is_name(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.';
  });
}

base::Result<std::string> canonical_name(const Field& field, std::string_view text) {
  if (!is_name(text)) return usage(fmt::format("expected a name of letters, digits, '_', '-' and '.', found '{}'", text));
  if (field.choices.empty() || std::ranges::find(field.choices, text) != field.choices.end()) return std::string(text);
  const std::vector<std::string> known(field.choices.begin(), field.choices.end());
  return usage(fmt::format("'{}' is not a value of {}{}", text, field.name, base::suggestion(text, known)));
}

base::Result<std::string> canonical_layout(const Field& field, std::string_view text) {
  if (text == kBack) return std::string(text);
  const auto at = text.find('@');
  std::string impl;
  if (at != std::string_view::npos) {
    auto name = canonical_name(field, text.substr(0, at));
    if (!name) return name.error();
    impl = *name + "@";
    text.remove_prefix(at + 1);
  }
  auto mesh = model::Mesh::parse(text);
  if (!mesh) return mesh.error();
  return impl + mesh->text();
}

base::Result<std::string> canonical_item(const Field& field, std::string_view text) {
  if (field.type == FieldType::kIntList) return canonical_int(field, text);
  return field.type == FieldType::kNameList ? canonical_name(field, text) : canonical_layout(field, text);
}

base::Result<std::string> canonical_list(const Field& field, std::string_view text) {
  if (field.type == FieldType::kLayoutList && text == kNoRestart) return std::string(text);
  const char separator = separator_of(field.type);
  std::string canonical;
  for (const std::string& part : split(text, separator)) {
    auto one = canonical_item(field, part);
    if (!one) return one.error();
    if (!canonical.empty()) canonical += separator;
    canonical += *one;
  }
  return canonical;
}

}  // namespace

std::span<const Field> fields() {
  static const std::vector<Field> table = make_fields();
  return table;
}

const Field* find_field(std::string_view name) {
  const auto table = fields();
  const auto found = std::ranges::find(table, name, &Field::name);
  return found == table.end() ? nullptr : &*found;
}

std::vector<std::string> field_names() {
  std::vector<std::string> names;
  for (const Field& field : fields()) names.emplace_back(field.name);
  return names;
}

char separator_of(FieldType type) { return type == FieldType::kLayoutList ? '/' : ','; }

bool is_list(FieldType type) { return type == FieldType::kIntList || type == FieldType::kNameList || type == FieldType::kLayoutList; }

base::Result<std::string> canonical_text(const Field& field, std::string_view text) {
  switch (field.type) {
    case FieldType::kInt: return canonical_int(field, text);
    case FieldType::kReal: return canonical_real(field, text);
    case FieldType::kIntList:
    case FieldType::kNameList:
    case FieldType::kLayoutList: return canonical_list(field, text);
    case FieldType::kName:
    case FieldType::kChoice: return canonical_name(field, text);
    case FieldType::kBool:
      if (text == "true" || text == "false") return std::string(text);
      return usage(fmt::format("expected true or false, found '{}'", text));
    case FieldType::kMesh: {
      auto mesh = model::Mesh::parse(text);
      if (!mesh) return mesh.error();
      return mesh->text();
    }
  }
  return usage("field without a type");
}

}  // namespace moecheck::cases
