#include "reference/tracked.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "reference/backward.h"
#include "reference/experts.h"
#include "reference/grad_stages.h"
#include "reference/router.h"

namespace moecheck::reference {
namespace {

using tolerance::Near;
using tolerance::Stage;
using tolerance::StageBound;

// silu(a) is stored before the product, and so is what goes back through the product.
constexpr std::int64_t kSiluStores = 2;

Near at(const Tracked& a, Dim row, Dim column) { return {a.value(row, column), a.bound(row, column)}; }

// One element that is stored: |value| with exact inputs, and what it can be at most.
Near stored_element(double value, double largest, const StageBound& stage) {
  return {value, tolerance::composed(stage, value, largest - std::fabs(value), largest, largest)};
}

void put(const Near& element, Tracked& into, Dim row, Dim column) {
  into.value(row, column) = element.value;
  into.bound(row, column) = element.bound;
}

// Multiplications that an estimate of |A|_2 may take: some seconds of one core, enough for 1,024 x 1,024.
constexpr double kMostProducts = 5e9;
// The estimate is the Frobenius norm of the Gram matrix's power 2^kSquarings: too large by its size to the power 2^-(kSquarings + 2).
constexpr int kSquarings = 3;

// silu(x) and silu'(x) of a gate, as far as they can be known.
struct Gate {
  Near silu, slope;
  double slope_magnitude;   // the terms of silu' err on their own, though they may cancel
};

Gate gate_of(const Near& gate) {
  const double sigmoid = 1 / (1 + std::exp(-gate.value));
  return {{silu(gate.value), tolerance::silu_error(gate)},
          {silu_slope(gate.value), tolerance::silu_slope_error(gate)},
          sigmoid * (1 + std::fabs(gate.value) * (1 - sigmoid))};
}

// The weights that the softmax gives to all experts, or to the chosen ones, which the scores are made of.
Tracked softmax_weights(const Tracked& logits, const Matrix<double>& weights) {
  Matrix<double> bound(weights.rows(), weights.cols());
  for (Dim t = 0; t < weights.rows(); ++t) {
    const double largest = logits.bound.row(t).size() > 0 ? logits.bound.row(t).maxCoeff() : 0;
    for (Dim e = 0; e < weights.cols(); ++e) bound(t, e) = tolerance::softmax_error(weights(t, e), logits.bound(t, e), largest);
  }
  return tracked(weights, std::move(bound));
}

Tracked gathered(const Tracked& a_TE, const IdMatrix& ids_TK) {
  return tracked(gather_columns(a_TE.value, ids_TK), gather_columns(a_TE.bound, ids_TK));
}

bool is_normalised(const model::ModelSpec& spec) { return spec.renormalise || spec.softmax == model::SoftmaxOrder::kAfterTopk; }

// Scores before they are rounded. Normalised ones depend on the chosen logits only: softmax(TopK(l)) and softmax(l) renormalised are
// one function.
Tracked exact_scores(const Tracked& logits_TE, const IdMatrix& ids_TK, const model::ModelSpec& spec) {
  const Matrix<double> scores_TK = scores_from_logits(logits_TE.value, ids_TK, spec);
  if (is_normalised(spec)) return softmax_weights(gathered(logits_TE, ids_TK), scores_TK);
  return gathered(softmax_weights(logits_TE, softmax(logits_TE.value)), ids_TK);
}

}  // namespace

Tracked tracked(Matrix<double> value, Matrix<double> bound) {
  Eigen::VectorXd norm = bound.rowwise().norm();
  return {std::move(value), std::move(bound), std::move(norm)};
}

Tracked exactly(Matrix<double> value) {
  Matrix<double> none = Matrix<double>::Zero(value.rows(), value.cols());
  return tracked(std::move(value), std::move(none));
}

Tracked recorded(const Matrix<double>& value, base::DType store) {
  return tracked(value, value.unaryExpr([store](double v) { return tolerance::recorded_copy(v, store).bound; }));
}

Tracked transposed(const Tracked& a) { return tracked(a.value.transpose(), a.bound.transpose()); }

Tracked columns_of(const Tracked& a, const std::vector<Dim>& columns) {
  Tracked result = tracked(a.value(Eigen::all, columns), a.bound(Eigen::all, columns));
  result.norm = result.norm.cwiseMin(a.norm);
  return result;
}

Tracked rows_of(const Tracked& a, const std::vector<Dim>& rows) {
  return {a.value(rows, Eigen::all), a.bound(rows, Eigen::all), a.norm(rows)};
}

TrackedSum TrackedSum::zeros(Dim rows, Dim columns) {
  const Matrix<double> zero = Matrix<double>::Zero(rows, columns);
  return {zero, zero, zero, Eigen::VectorXd::Zero(rows)};
}

void TrackedSum::add_row(Dim row, const Near& weight, const Tracked& a, Dim a_row) {
  value.row(row) += weight.value * a.value.row(a_row);
  plain.row(row) += std::fabs(weight.value) * a.value.row(a_row).cwiseAbs();
  largest.row(row) += weight.largest() * (a.value.row(a_row).cwiseAbs() + a.bound.row(a_row));
  moved(row) += weight.largest() * a.norm(a_row) + weight.bound * a.value.row(a_row).norm();
}

// |A|_2^2 is the largest eigenvalue of the Gram matrix G, and that of G^m is at most its Frobenius norm.
double largest_stretch(const Matrix<double>& a) {
  const auto shorter = static_cast<double>(std::min(a.rows(), a.cols())), longer = static_cast<double>(std::max(a.rows(), a.cols()));
  if (shorter * shorter * (longer + kSquarings * shorter) > kMostProducts) return std::numeric_limits<double>::infinity();
  Matrix<double> gram = a.rows() < a.cols() ? Matrix<double>(a * a.transpose()) : Matrix<double>(a.transpose() * a);
  const double scale = gram.norm();
  if (scale == 0) return 0;
  gram /= scale;
  double power = 1;
  for (int i = 0; i < kSquarings; ++i, power *= 2) gram = (gram * gram).eval();
  return std::sqrt(scale * std::pow(gram.norm(), 1 / power));
}

TrackedSum products(const Tracked& a_MK, const Tracked& b_NK) {
  TrackedSum sum{a_MK.value * b_NK.value.transpose(), a_MK.value.cwiseAbs() * b_NK.value.cwiseAbs().transpose(),
                 a_MK.largest() * b_NK.largest().transpose(), {}};
  sum.moved = (sum.largest - sum.plain).rowwise().norm();
  if (!b_NK.is_exact() || a_MK.is_exact()) return sum;
  const double stretch = largest_stretch(b_NK.value);
  if (std::isfinite(stretch)) sum.moved = sum.moved.cwiseMin(stretch * a_MK.norm);
  return sum;
}

Tracked stored(const TrackedSum& sum, const StageBound& stage) {
  Matrix<double> bound(sum.value.rows(), sum.value.cols());
  const Matrix<double> propagated = sum.largest - sum.plain;
  for (Dim i = 0; i < sum.value.size(); ++i) {
    const double largest = sum.largest.data()[i];
    bound.data()[i] = tolerance::composed(stage, sum.value.data()[i], propagated.data()[i], largest, largest);
  }
  const Eigen::VectorXd norm = sum.moved + (bound - propagated).rowwise().norm();
  Tracked result = tracked(sum.value, std::move(bound));
  result.norm = result.norm.cwiseMin(norm);
  return result;
}

Tracked weighted(const Tracked& a_RD, const Tracked& weight_R1, const StageBound& stage) {
  TrackedSum product = TrackedSum::zeros(a_RD.value.rows(), a_RD.value.cols());
  for (Dim r = 0; r < a_RD.value.rows(); ++r) product.add_row(r, at(weight_R1, r, 0), a_RD, r);
  return stored(product, stage);
}

Tracked swiglu(const Tracked& gate_up_RG, base::DType store) {
  const Dim d_ff = gate_up_RG.value.cols() / 2;
  const StageBound stage(Stage::kActivation, store, 1, 0);
  Tracked act_RF = exactly(Matrix<double>(gate_up_RG.value.rows(), d_ff));
  for (Dim r = 0; r < act_RF.value.rows(); ++r)
    for (Dim f = 0; f < d_ff; ++f) {
      const Near silu = gate_of(at(gate_up_RG, r, f)).silu, up = at(gate_up_RG, r, d_ff + f);
      put(stored_element(silu.value * up.value, silu.largest() * up.largest(), stage), act_RF, r, f);
    }
  return tracked(std::move(act_RF.value), std::move(act_RF.bound));
}

Tracked swiglu_backward(const Tracked& gate_up_RG, const Tracked& d_act_RF, base::DType store) {
  const Dim d_ff = d_act_RF.value.cols();
  const StageBound stage(Stage::kGradient, store, kSiluTerms, kSiluStores);
  Tracked d_gate_up_RG = exactly(Matrix<double>(gate_up_RG.value.rows(), 2 * d_ff));
  for (Dim r = 0; r < d_act_RF.value.rows(); ++r)
    for (Dim f = 0; f < d_ff; ++f) {
      const Gate gate = gate_of(at(gate_up_RG, r, f));
      const Near up = at(gate_up_RG, r, d_ff + f), d_act = at(d_act_RF, r, f);
      const double d_gate = d_act.value * up.value * gate.slope.value;
      const double largest = d_act.largest() * up.largest() * gate.slope.largest();
      const double magnitude = d_act.largest() * up.largest() * (gate.slope_magnitude + gate.slope.bound);
      put({d_gate, tolerance::composed(stage, d_gate, largest - std::fabs(d_gate), magnitude, largest)}, d_gate_up_RG, r, f);
      put(stored_element(d_act.value * gate.silu.value, d_act.largest() * gate.silu.largest(), stage), d_gate_up_RG, r, d_ff + f);
    }
  return tracked(std::move(d_gate_up_RG.value), std::move(d_gate_up_RG.bound));
}

Tracked scores_from_logits(const Tracked& logits_TE, const IdMatrix& ids_TK, const model::ModelSpec& spec, base::DType store) {
  Tracked scores_TK = exact_scores(logits_TE, ids_TK, spec);
  const StageBound stage(Stage::kScores, store, spec.num_experts, 0);
  for (Dim i = 0; i < scores_TK.value.size(); ++i) {
    const double value = scores_TK.value.data()[i], propagated = scores_TK.bound.data()[i];
    scores_TK.bound.data()[i] = tolerance::composed(stage, value, propagated, std::fabs(value), 0);
  }
  return tracked(std::move(scores_TK.value), std::move(scores_TK.bound));
}

namespace {

// |d l_e| = w_e (|g_e| + mean) with mean = <|g|, w> over the chosen; an expert that is not chosen has g = 0. Before the top-k the
// softmax's backward reaches every column, if only with terms that cancel up to rounding.
struct LogitTerms {
  Matrix<double> plain;       // with exact inputs
  Matrix<double> largest;     // at most
  Matrix<double> magnitude;   // what rounds on the way
};

LogitTerms logit_terms(const Tracked& logits_TE, const IdMatrix& ids_TK, const Tracked& d_scores_TK, const model::ModelSpec& spec) {
  const Tracked w_TK = exact_scores(logits_TE, ids_TK, spec);
  const Tracked p_TE = softmax_weights(logits_TE, softmax(logits_TE.value));
  const Dim rows = logits_TE.value.rows(), columns = logits_TE.value.cols();
  LogitTerms terms{Matrix<double>::Zero(rows, columns), Matrix<double>::Zero(rows, columns), Matrix<double>::Zero(rows, columns)};
  for (Dim t = 0; t < rows; ++t) {
    double mean = 0, largest_mean = 0;
    for (Dim k = 0; k < spec.top_k; ++k) {
      mean += std::fabs(d_scores_TK.value(t, k)) * w_TK.value(t, k);
      largest_mean += at(d_scores_TK, t, k).largest() * at(w_TK, t, k).largest();
    }
    if (!is_normalised(spec)) {
      terms.plain.row(t) = mean * p_TE.value.row(t);
      terms.largest.row(t) = largest_mean * (p_TE.value.row(t) + p_TE.bound.row(t));
    }
    for (Dim k = 0; k < spec.top_k; ++k) {
      const Dim e = ids_TK(t, k);
      const double in_all = is_normalised(spec) ? 1 : 0;   // the mean's part is there already
      terms.plain(t, e) += w_TK.value(t, k) * (std::fabs(d_scores_TK.value(t, k)) + in_all * mean);
      terms.largest(t, e) += at(w_TK, t, k).largest() * (at(d_scores_TK, t, k).largest() + in_all * largest_mean);
    }
    terms.magnitude.row(t) = terms.largest.row(t);
    if (spec.softmax == model::SoftmaxOrder::kAfterTopk) continue;
    terms.magnitude.row(t) += 2 * largest_mean * (p_TE.value.row(t) + p_TE.bound.row(t));
  }
  return terms;
}

}  // namespace

Tracked scores_backward(const Tracked& logits_TE, const IdMatrix& ids_TK, const Tracked& d_scores_TK, const model::ModelSpec& spec,
                        base::DType store) {
  const LogitTerms terms = logit_terms(logits_TE, ids_TK, d_scores_TK, spec);
  const StageBound stage(Stage::kSoftmaxGradient, store, spec.num_experts + kSoftmaxTerms, 0);
  const Matrix<double> d_logits_TE = scores_backward(logits_TE.value, ids_TK, d_scores_TK.value, spec);
  Matrix<double> bound(d_logits_TE.rows(), d_logits_TE.cols());
  for (Dim i = 0; i < d_logits_TE.size(); ++i) {
    const double propagated = terms.largest.data()[i] - terms.plain.data()[i];
    bound.data()[i] = tolerance::composed(stage, d_logits_TE.data()[i], propagated, terms.magnitude.data()[i], 0);
  }
  return tracked(d_logits_TE, std::move(bound));
}

}  // namespace moecheck::reference
