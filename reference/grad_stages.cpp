#include "reference/grad_stages.h"

#include <cmath>

#include "harness/trace/layout.h"
#include "reference/activation_sizes.h"
#include "reference/backward.h"
#include "reference/router.h"

namespace moecheck::reference {
namespace {

// The summands themselves are what is stored.
void set_stored(ExpectedTap& tap, std::int64_t roundings) {
  tap.stored = tap.magnitude;
  tap.roundings = roundings;
}

}  // namespace

Matrix<double> generated_output_grad(const inputs::Generator& generator, Dim batch) {
  const Dim num_tokens = generator.problem().total_tokens(), d_model = generator.problem().model.d_model;
  Matrix<float> grad_y_SD(num_tokens, d_model);
  for (Dim t = 0; t < num_tokens; ++t)
    generator.output_grad_row(batch * num_tokens + t, std::span<float>(grad_y_SD.row(t).data(), static_cast<std::size_t>(d_model)));
  return grad_y_SD.cast<double>();
}

ExpectedTap expect_grad_y(const ObservedRank& seen, const Matrix<double>& grad_y_SD) {
  ExpectedTap tap = make_tap(seen.num_tokens, grad_y_SD.cols(), 1);
  view_of(tap.value) = grad_y_SD.middleRows(seen.first_token, seen.num_tokens);
  view_of(tap.magnitude) = view_of(tap.value).cwiseAbs();
  return tap;
}

std::optional<ExpectedTap> expect_grad_out(const ObservedLayer& layer, const ObservedRank& seen, const Matrix<double>& grad_y_SD) {
  if (!seen.rows_R || !seen.grad_out_RD) return std::nullopt;
  ExpectedTap tap = make_tap(seen.grad_out_RD->rows(), grad_y_SD.cols(), 1);
  tap.is_comparable = seen.rows_R->is_routed;
  for (std::size_t i = 0; i < seen.rows_R->keys.size(); ++i) {
    if (tap.is_comparable[i] == 0) continue;
    const RoutedRow& key = seen.rows_R->keys[i];
    const auto weight = layer.weighs_before() ? 1.0 : layer.score_of(seen, key);
    tap.is_comparable[i] = weight.has_value();
    if (weight) view_of(tap.value).row(static_cast<Dim>(i)) = *weight * grad_y_SD.row(key.token);
  }
  view_of(tap.magnitude) = view_of(tap.value).cwiseAbs();
  return if_any_input(std::move(tap), seen.rows_R->is_routed);
}

std::optional<ExpectedTap> expect_grad_gate_up(const ObservedRank& seen, const model::Activation& activation) {
  if (!seen.gate_up_RG || !seen.grad_act_RF || !seen.grad_gate_up_RG || seen.gate_up_RG->cols() != 2 * seen.grad_act_RF->cols() ||
      seen.grad_gate_up_RG->cols() != seen.gate_up_RG->cols() || !seen.rows_R)
    return std::nullopt;
  const Dim half = seen.grad_act_RF->cols();
  ExpectedTap tap = make_tap(seen.gate_up_RG->rows(), 2 * half, kSwishTerms);
  tap.is_comparable = seen.rows_R->is_routed;
  auto value_RG = view_of(tap.value);
  auto magnitude_RG = view_of(tap.magnitude);
  value_RG = swiglu_backward(*seen.gate_up_RG, *seen.grad_act_RF, activation);
  for (Dim r = 0; r < value_RG.rows(); ++r) {
    for (Dim f = 0; f < half; ++f) {
      const double gate = (*seen.gate_up_RG)(r, f), up = (*seen.gate_up_RG)(r, half + f), grad = (*seen.grad_act_RF)(r, f);
      const ActivationSizes sizes = activation_sizes(gate, up, activation);
      magnitude_RG(r, f) = std::fabs(grad) * sizes.by_gate;
      magnitude_RG(r, half + f) = std::fabs(grad) * sizes.by_up;
    }
  }
  tap.stored = base::HostTensor(base::DType::kF64, tap.value.shape());
  // silu's backward is one operation, whose terms are not stored.
  view_of(tap.stored) = activation.is_silu() ? Matrix<double>(value_RG.cwiseAbs()) : Matrix<double>(magnitude_RG);
  tap.roundings = activation_stores(activation).backward;
  return tap;
}

std::optional<ExpectedTap> expect_grad_scores(const ObservedLayer& layer, const ObservedRank& seen, const Matrix<double>& grad_y_SD) {
  if (!seen.grad_scores_TK || (layer.weighs_before() && !seen.x_TD)) return std::nullopt;
  ExpectedTap tap = make_tap(seen.num_tokens, seen.grad_scores_TK->cols(), grad_y_SD.cols());
  const auto group = layer.layer_group(seen);
  for (const ObservedRank* other : group) {
    if (other == nullptr || !other->rows_R) return std::nullopt;
    const auto& factor_RD = layer.weighs_before() ? other->grad_in_RD : other->out_RD;
    if (!factor_RD) return std::nullopt;
    for (std::size_t i = 0; i < other->rows_R->keys.size(); ++i) {
      const RoutedRow& key = other->rows_R->keys[i];
      if (!seen.owns(key.token)) continue;
      const Dim t = key.token - seen.first_token;
      if (other->rows_R->is_routed[i] == 0) {
        if (key.expert != kMaskedExpert) tap.is_comparable[static_cast<std::size_t>(t)] = 0;
        continue;
      }
      const Matrix<double> token_D = layer.weighs_before() ? seen.x_TD->row(t) : grad_y_SD.row(key.token);
      const auto products_D = factor_RD->row(static_cast<Dim>(i)).cwiseProduct(token_D.row(0)).eval();
      view_of(tap.value)(t, key.slot) += products_D.sum();
      view_of(tap.magnitude)(t, key.slot) += products_D.cwiseAbs().sum();
    }
  }
  // Products stored before the sum, the sum, and the ranks' sums added up.
  set_stored(tap, 2 + static_cast<Dim>(group.size()));
  return tap;
}

namespace {

double chosen_probability(const ObservedRank& seen, const model::ModelSpec& spec, Dim t, const Matrix<double>& p_TE) {
  double sum = 0;
  for (Dim k = 0; k < spec.top_k; ++k) sum += p_TE(t, (*seen.ids_TK)(t, k));
  return sum;
}

// The summands of one token's d logits by their size. With w = p / scale, scale the sum of the chosen p where the scores are
// normalised (softmax(TopK(l)) and softmax(l) renormalised are one function), else 1:
//   normalised dl_i = w_i (g_i - <g, w>) for the chosen; otherwise dl_j = p_j (g_j [chosen] - <g, p>) for all;
//   of a sigmoid s_i (1 - s_i) / scale (g_i - <g, w>), without the mean where they are not normalised, of two parts by the stored s_i.
void add_logit_magnitudes(const ObservedRank& seen, const model::ModelSpec& spec, Dim t, const Matrix<double>& p_TE,
                          Eigen::Map<Matrix<double>> magnitude_TE) {
  const bool is_before = spec.score_function == model::ScoreFunction::kSoftmaxBeforeTopk;
  const bool is_normalised = spec.renormalise || spec.score_function == model::ScoreFunction::kSoftmaxAfterTopk;
  const double scale = is_normalised ? chosen_probability(seen, spec, t, p_TE) : 1;
  const bool is_sigmoid = spec.score_function == model::ScoreFunction::kSigmoid;
  double mean = 0;   // <|g|, w>
  for (Dim k = 0; k < spec.top_k; ++k) mean += std::fabs((*seen.grad_scores_TK)(t, k)) * p_TE(t, (*seen.ids_TK)(t, k)) / scale;
  if (is_sigmoid && !is_normalised) mean = 0;
  for (Dim k = 0; k < spec.top_k; ++k) {
    const Dim e = (*seen.ids_TK)(t, k);
    const double slope = is_sigmoid ? p_TE(t, e) * (1 + p_TE(t, e)) : p_TE(t, e);
    magnitude_TE(t, e) += slope / scale * (std::fabs((*seen.grad_scores_TK)(t, k)) + mean);
  }
  // Before top-k the softmax's backward reaches every column, if only with terms that cancel up to rounding.
  if (is_before) magnitude_TE.row(t) += 2 * mean * p_TE.row(t);
  magnitude_TE.row(t) *= spec.routed_scale;
}

// Of a softmax after the top-k the scores are the softmax itself, and a backward that takes them as they were stored (GPT-OSS takes its
// softmax in the case's dtype) errs by p_e (|g_e - <g, p>| + <|g|, p>) times their rounding.
void add_stored_scores(const ObservedRank& seen, const model::ModelSpec& spec, Dim t, const Matrix<double>& p_TE,
                       Eigen::Map<Matrix<double>> stored_TE) {
  const double chosen = chosen_probability(seen, spec, t, p_TE);
  double mean = 0, largest_mean = 0;
  for (Dim k = 0; k < spec.top_k; ++k) {
    const double term = (*seen.grad_scores_TK)(t, k) * p_TE(t, (*seen.ids_TK)(t, k)) / chosen;
    mean += term;
    largest_mean += std::fabs(term);
  }
  for (Dim k = 0; k < spec.top_k; ++k) {
    const Dim e = (*seen.ids_TK)(t, k);
    stored_TE(t, e) += spec.routed_scale * p_TE(t, e) / chosen * (std::fabs((*seen.grad_scores_TK)(t, k) - mean) + largest_mean);
  }
}

}  // namespace

std::optional<ExpectedTap> expect_grad_logits(const ObservedRank& seen, const model::ModelSpec& spec) {
  if (!seen.logits_TE || !seen.ids_TK || !seen.grad_scores_TK || !seen.grad_logits_TE) return std::nullopt;
  ExpectedTap tap = make_tap(seen.num_tokens, spec.num_experts, spec.num_experts + kSoftmaxTerms);
  const bool is_sigmoid = spec.score_function == model::ScoreFunction::kSigmoid;
  const Matrix<double> p_TE = is_sigmoid ? sigmoid(*seen.logits_TE) : softmax(*seen.logits_TE);
  const bool is_after = spec.score_function == model::ScoreFunction::kSoftmaxAfterTopk;
  tap.stored = base::HostTensor(base::DType::kF64, tap.value.shape());
  tap.roundings = is_after ? 1 : 0;
  IdMatrix ids_TK = *seen.ids_TK;
  for (Dim t = 0; t < seen.num_tokens; ++t) {
    if (are_experts(ids_TK, t, spec.num_experts)) {
      add_logit_magnitudes(seen, spec, t, p_TE, view_of(tap.magnitude));
      if (is_after) add_stored_scores(seen, spec, t, p_TE, view_of(tap.stored));
      continue;
    }
    tap.is_comparable[static_cast<std::size_t>(t)] = 0;
    ids_TK.row(t).setZero();
  }
  view_of(tap.value) = scores_backward(*seen.logits_TE, ids_TK, *seen.grad_scores_TK, spec);
  return tap;
}

std::optional<ExpectedTap> expect_grad_router(const ObservedLayer& layer, const ObservedRank& seen) {
  constexpr std::string_view kTap = "grad/router/w_ED";
  if (seen.trace->tensor(kTap) == nullptr) return std::nullopt;
  const model::Problem& problem = layer.problem();
  const std::vector<Dim> experts = trace::declared_indices(problem, kTap, seen.rank, 0);
  ExpectedTap tap = make_tap(static_cast<Dim>(experts.size()), problem.model.d_model, 1);
  // One rank a token shard.
  const std::vector<Dim> shards = problem.mesh.group(seen.rank, problem.token_dims_text());
  for (const Dim rank : shards) {
    const ObservedRank* other = layer.find(rank);
    if (other == nullptr || !other->grad_logits_TE || !other->x_TD) return std::nullopt;
    for (std::size_t i = 0; i < experts.size(); ++i) {
      const auto grad_T = other->grad_logits_TE->col(experts[i]).transpose();
      view_of(tap.value).row(static_cast<Dim>(i)) += grad_T * *other->x_TD;
      view_of(tap.magnitude).row(static_cast<Dim>(i)) += grad_T.cwiseAbs() * other->x_TD->cwiseAbs();
    }
    tap.terms += other->num_tokens;
  }
  set_stored(tap, static_cast<Dim>(shards.size()));
  return tap;
}

}  // namespace moecheck::reference
