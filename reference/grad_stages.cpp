#include "reference/grad_stages.h"

#include <cmath>

#include "reference/backward.h"
#include "reference/router.h"

namespace moecheck::reference {
namespace {

// exp, sum, division, products of silu' in fp32.
constexpr Dim kSiluTerms = 12;
// exp, shift, division and the two products of the softmax's backward, beside its sum over E.
constexpr Dim kSoftmaxTerms = 32;

// The summands themselves are what is stored.
void set_stored(ExpectedTap& tap, std::int64_t roundings) {
  tap.stored = tap.magnitude;
  tap.roundings = roundings;
}

}  // namespace

Matrix<double> generated_output_grad(const inputs::Generator& generator, Dim rank) {
  return matrix_of<double>(generator.output_grad_TD(rank));
}

ExpectedTap expect_grad_y(const Matrix<double>& grad_y_TD) {
  ExpectedTap tap = make_tap(grad_y_TD.rows(), grad_y_TD.cols(), 1);
  view_of(tap.value) = grad_y_TD;
  view_of(tap.magnitude) = grad_y_TD.cwiseAbs();
  return tap;
}

std::optional<ExpectedTap> expect_grad_out(const ObservedRank& seen, const Matrix<double>& grad_y_TD) {
  if (!seen.rows_R || !seen.scores_TK || !seen.grad_out_RD) return std::nullopt;
  ExpectedTap tap = make_tap(seen.grad_out_RD->rows(), grad_y_TD.cols(), 1);
  tap.is_comparable = seen.is_routed_R;
  for (std::size_t i = 0; i < seen.rows_R->size(); ++i) {
    if (seen.is_routed_R[i] == 0) continue;
    const RoutedRow& key = (*seen.rows_R)[i];
    view_of(tap.value).row(static_cast<Dim>(i)) = (*seen.scores_TK)(key.token, key.slot) * grad_y_TD.row(key.token);
  }
  view_of(tap.magnitude) = view_of(tap.value).cwiseAbs();
  return tap;
}

std::optional<ExpectedTap> expect_grad_gate_up(const ObservedRank& seen) {
  if (!seen.gate_up_RG || !seen.grad_act_RF || !seen.grad_gate_up_RG || seen.gate_up_RG->cols() != 2 * seen.grad_act_RF->cols() ||
      seen.grad_gate_up_RG->cols() != seen.gate_up_RG->cols() || !seen.rows_R)
    return std::nullopt;
  const Dim half = seen.grad_act_RF->cols();
  ExpectedTap tap = make_tap(seen.gate_up_RG->rows(), 2 * half, kSiluTerms);
  tap.is_comparable = seen.is_routed_R;
  auto value_RG = view_of(tap.value);
  auto magnitude_RG = view_of(tap.magnitude);
  value_RG = swiglu_backward(*seen.gate_up_RG, *seen.grad_act_RF);
  for (Dim r = 0; r < value_RG.rows(); ++r) {
    for (Dim f = 0; f < half; ++f) {
      const double gate = (*seen.gate_up_RG)(r, f), up = (*seen.gate_up_RG)(r, half + f), grad = (*seen.grad_act_RF)(r, f);
      const double sigmoid = 1 / (1 + std::exp(-gate));
      // Each term of silu' errs on its own, though they may cancel.
      magnitude_RG(r, f) = std::fabs(grad * up) * sigmoid * (1 + std::fabs(gate) * (1 - sigmoid));
      magnitude_RG(r, half + f) = std::fabs(value_RG(r, half + f));
    }
  }
  // Stored on the way: silu(a), and d b.
  tap.stored = base::HostTensor(base::DType::kF64, tap.value.shape());
  view_of(tap.stored) = value_RG.cwiseAbs();
  tap.roundings = 2;
  return tap;
}

std::optional<ExpectedTap> expect_grad_scores(const ObservedRank& seen, std::span<const ObservedRank> all, const model::Mesh& mesh,
                                              const Matrix<double>& grad_y_TD) {
  if (!seen.grad_scores_TK) return std::nullopt;
  ExpectedTap tap = make_tap(seen.grad_scores_TK->rows(), seen.grad_scores_TK->cols(), grad_y_TD.cols());
  auto value_TK = view_of(tap.value);
  auto magnitude_TK = view_of(tap.magnitude);
  Dim num_ranks = 0;
  for (const ObservedRank& other : all) {
    if (mesh.coordinate(other.rank, "dp") != mesh.coordinate(seen.rank, "dp")) continue;
    if (!other.rows_R || !other.out_RD) return std::nullopt;
    ++num_ranks;
    for (std::size_t i = 0; i < other.rows_R->size(); ++i) {
      if (other.is_routed_R[i] == 0) continue;
      const RoutedRow& key = (*other.rows_R)[i];
      const auto products_D = other.out_RD->row(static_cast<Dim>(i)).cwiseProduct(grad_y_TD.row(key.token)).eval();
      value_TK(key.token, key.slot) += products_D.sum();
      magnitude_TK(key.token, key.slot) += products_D.cwiseAbs().sum();
    }
  }
  // Products stored before the sum, the sum, and the ranks' sums added up.
  set_stored(tap, 2 + num_ranks);
  return tap;
}

namespace {

// The summands of one token's d logits by their size. With w = p / scale, scale the sum of the chosen p where the scores are
// normalised (softmax(TopK(l)) and softmax(l) renormalised are one function), else 1:
//   normalised dl_i = w_i (g_i - <g, w>) for the chosen; otherwise dl_j = p_j (g_j [chosen] - <g, p>) for all.
void add_logit_magnitudes(const ObservedRank& seen, const model::ModelSpec& spec, Dim t, const Matrix<double>& p_TE,
                          Eigen::Map<Matrix<double>> magnitude_TE) {
  const bool is_after = spec.softmax == model::SoftmaxOrder::kAfterTopk;
  double chosen = 0;
  for (Dim k = 0; k < spec.top_k; ++k) chosen += p_TE(t, (*seen.ids_TK)(t, k));
  const double scale = spec.renormalise || is_after ? chosen : 1;
  double mean = 0;   // <|g|, w>
  for (Dim k = 0; k < spec.top_k; ++k) mean += std::fabs((*seen.grad_scores_TK)(t, k)) * p_TE(t, (*seen.ids_TK)(t, k)) / scale;
  for (Dim k = 0; k < spec.top_k; ++k) {
    const Dim e = (*seen.ids_TK)(t, k);
    magnitude_TE(t, e) += p_TE(t, e) / scale * (std::fabs((*seen.grad_scores_TK)(t, k)) + mean);
  }
  // Before top-k the softmax's backward reaches every column, if only with terms that cancel up to rounding.
  if (!is_after) magnitude_TE.row(t) += 2 * mean * p_TE.row(t);
}

}  // namespace

std::optional<ExpectedTap> expect_grad_logits(const ObservedRank& seen, const model::ModelSpec& spec) {
  if (!seen.logits_TE || !seen.ids_TK || !seen.grad_scores_TK || !seen.grad_logits_TE) return std::nullopt;
  ExpectedTap tap = make_tap(seen.num_tokens, spec.num_experts, spec.num_experts + kSoftmaxTerms);
  const Matrix<double> p_TE = softmax(*seen.logits_TE);
  IdMatrix ids_TK = *seen.ids_TK;
  for (Dim t = 0; t < seen.num_tokens; ++t) {
    if (are_experts(ids_TK, t, spec.num_experts)) {
      add_logit_magnitudes(seen, spec, t, p_TE, view_of(tap.magnitude));
      continue;
    }
    tap.is_comparable[static_cast<std::size_t>(t)] = 0;
    ids_TK.row(t).setZero();
  }
  view_of(tap.value) = scores_backward(*seen.logits_TE, ids_TK, *seen.grad_scores_TK, spec);
  return tap;
}

std::optional<ExpectedTap> expect_grad_router(const ObservedRank& seen, std::span<const ObservedRank> all, const model::Problem& problem) {
  if (seen.trace->tensor("grad/router/w_ED") == nullptr) return std::nullopt;
  ExpectedTap tap = make_tap(problem.model.num_experts, problem.model.d_model, 1);
  const std::vector<Dim> group = problem.mesh.group(seen.rank, "dp");
  for (const Dim rank : group) {
    const ObservedRank& other = all[static_cast<std::size_t>(rank)];
    if (!other.grad_logits_TE || !other.x_TD) return std::nullopt;
    view_of(tap.value) += other.grad_logits_TE->transpose() * *other.x_TD;
    view_of(tap.magnitude) += other.grad_logits_TE->cwiseAbs().transpose() * other.x_TD->cwiseAbs();
    tap.terms += other.num_tokens;
  }
  set_stored(tap, static_cast<Dim>(group.size()));
  return tap;
}

}  // namespace moecheck::reference
