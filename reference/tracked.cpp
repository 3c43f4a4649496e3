#include "reference/tracked.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "reference/activation_sizes.h"
#include "reference/backward.h"
#include "reference/experts.h"
#include "reference/grad_stages.h"
#include "reference/router.h"

namespace moecheck::reference {
namespace {

using tolerance::Near;
using tolerance::Stage;
using tolerance::StageBound;

Near at(const Tracked& a, Dim row, Dim column) { return {a.value(row, column), a.bound(row, column)}; }

void put(const Near& element, Tracked& into, Dim row, Dim column) {
  into.value(row, column) = element.value;
  into.bound(row, column) = element.bound;
}

// Multiplications that an estimate of |A|_2 may take: some seconds of one core, enough for 1,024 x 1,024.
constexpr double kMostProducts = 5e9;
// The estimate is the Frobenius norm of the Gram matrix's power 2^kSquarings: too large by its size to the power 2^-(kSquarings + 2).
constexpr int kSquarings = 3;

// swish(gate) and its slope, shifted_up(up) and its slope, as far as they can be known.
struct GateUp {
  Near swish, swish_slope, up, up_slope;
  ActivationSizes sizes;
};

GateUp gate_up_of(const Near& gate, const Near& up, const model::Activation& activation) {
  return {{swish(gate.value, activation), tolerance::swish_error(gate, activation)},
          {swish_slope(gate.value, activation), tolerance::swish_slope_error(gate, activation)},
          {shifted_up(up.value, activation), up.bound},
          {std::fabs(up.value) > activation.limit ? 0.0 : 1.0, tolerance::clamp_slope_error(up, activation.limit)},
          activation_sizes(gate, up, activation)};
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

bool is_normalised(const model::ModelSpec& spec) { return spec.renormalise || spec.score_function == model::ScoreFunction::kSoftmaxAfterTopk; }

bool is_sigmoid(const model::ModelSpec& spec) { return spec.score_function == model::ScoreFunction::kSigmoid; }

Tracked sigmoid_weights(const Tracked& logits) {
  Tracked weights = exactly(sigmoid(logits.value));
  for (Dim i = 0; i < weights.value.size(); ++i)
    weights.bound.data()[i] = tolerance::sigmoid_error({logits.value.data()[i], logits.bound.data()[i]});
  return weights;
}

// Each weight over the sum of its row.
Tracked shares(const Tracked& weights_TK) {
  Tracked result = weights_TK;
  for (Dim t = 0; t < weights_TK.value.rows(); ++t) {
    const Near all{weights_TK.value.row(t).sum(), weights_TK.bound.row(t).sum()};
    for (Dim k = 0; k < weights_TK.value.cols(); ++k) {
      const Near own = at(weights_TK, t, k);
      put(tolerance::share(own, {all.value - own.value, all.bound - own.bound}), result, t, k);
    }
  }
  return result;
}

// Scores before they are scaled and rounded. Normalised ones depend on the chosen logits only: softmax(TopK(l)) and softmax(l)
// renormalised are one function.
Tracked exact_scores(const Tracked& logits_TE, const IdMatrix& ids_TK, model::ModelSpec spec) {
  if (is_sigmoid(spec)) {
    const Tracked weights_TK = sigmoid_weights(gathered(logits_TE, ids_TK));
    return spec.renormalise ? shares(weights_TK) : weights_TK;
  }
  spec.routed_scale = 1;
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

Tracked swiglu(const Tracked& gate_up_RG, const model::Activation& activation, base::DType store) {
  const Dim d_ff = gate_up_RG.value.cols() / 2;
  const StageBound stage(Stage::kActivation, store, 1, activation_stores(activation).forward);
  Tracked act_RF = exactly(Matrix<double>(gate_up_RG.value.rows(), d_ff));
  for (Dim r = 0; r < act_RF.value.rows(); ++r)
    for (Dim f = 0; f < d_ff; ++f) {
      const GateUp of = gate_up_of(at(gate_up_RG, r, f), at(gate_up_RG, r, d_ff + f), activation);
      const double value = of.swish.value * of.up.value, propagated = of.swish.largest() * of.up.largest() - std::fabs(value);
      put({value, tolerance::composed(stage, value, propagated, of.sizes.act, 0)}, act_RF, r, f);
    }
  return tracked(std::move(act_RF.value), std::move(act_RF.bound));
}

Tracked swiglu_backward(const Tracked& gate_up_RG, const Tracked& d_act_RF, const model::Activation& activation, base::DType store) {
  const Dim d_ff = d_act_RF.value.cols();
  const StageBound stage(Stage::kGradient, store, kSwishTerms, activation_stores(activation).backward);
  Tracked d_gate_up_RG = exactly(Matrix<double>(gate_up_RG.value.rows(), 2 * d_ff));
  const auto put_gradient = [&](const Near& d_act, const Near& a, const Near& b, double size, Dim r, Dim column) {
    const double value = d_act.value * a.value * b.value, largest = d_act.largest() * a.largest() * b.largest();
    const double magnitude = d_act.largest() * size;
    // silu's backward is one operation, whose terms are not stored.
    const double stored = activation.is_silu() ? largest : magnitude;
    put({value, tolerance::composed(stage, value, largest - std::fabs(value), magnitude, stored)}, d_gate_up_RG, r, column);
  };
  for (Dim r = 0; r < d_act_RF.value.rows(); ++r)
    for (Dim f = 0; f < d_ff; ++f) {
      const GateUp of = gate_up_of(at(gate_up_RG, r, f), at(gate_up_RG, r, d_ff + f), activation);
      put_gradient(at(d_act_RF, r, f), of.up, of.swish_slope, of.sizes.by_gate, r, f);
      put_gradient(at(d_act_RF, r, f), of.up_slope, of.swish, of.sizes.by_up, r, d_ff + f);
    }
  return tracked(std::move(d_gate_up_RG.value), std::move(d_gate_up_RG.bound));
}

Tracked scores_from_logits(const Tracked& logits_TE, const IdMatrix& ids_TK, const model::ModelSpec& spec, base::DType store) {
  Tracked scores_TK = exact_scores(logits_TE, ids_TK, spec);
  const StageBound stage(Stage::kScores, store, spec.num_experts, 0);
  for (Dim i = 0; i < scores_TK.value.size(); ++i) {
    const double value = scores_TK.value.data()[i] *= spec.routed_scale, propagated = scores_TK.bound.data()[i] * spec.routed_scale;
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

LogitTerms no_terms(const Tracked& logits_TE) {
  const Matrix<double> zero = Matrix<double>::Zero(logits_TE.value.rows(), logits_TE.value.cols());
  return {zero, zero, zero};
}

// Of sigmoids s (1 - s) / z (|g_k| + mean) for the chosen, z their sum; where they are not normalised without mean and z.
LogitTerms sigmoid_terms(const Tracked& logits_TE, const IdMatrix& ids_TK, const Tracked& d_scores_TK, const model::ModelSpec& spec) {
  const Tracked logits_TK = gathered(logits_TE, ids_TK), s_TK = sigmoid_weights(logits_TK), w_TK = shares(s_TK);
  LogitTerms terms = no_terms(logits_TE);
  for (Dim t = 0; t < logits_TE.value.rows(); ++t) {
    double mean = 0, largest_mean = 0, z = 1, least_z = 1;
    if (spec.renormalise) {
      z = s_TK.value.row(t).sum();
      least_z = std::max(std::numeric_limits<double>::min(), z - s_TK.bound.row(t).sum());
      for (Dim k = 0; k < spec.top_k; ++k) {
        mean += std::fabs(d_scores_TK.value(t, k)) * w_TK.value(t, k);
        largest_mean += at(d_scores_TK, t, k).largest() * at(w_TK, t, k).largest();
      }
    }
    for (Dim k = 0; k < spec.top_k; ++k) {
      const Near logit = at(logits_TK, t, k), s = at(s_TK, t, k);
      const double slope = s.value * sigmoid(-logit.value), largest = at(d_scores_TK, t, k).largest() + largest_mean;
      const Dim e = ids_TK(t, k);
      terms.plain(t, e) += slope / z * (std::fabs(d_scores_TK.value(t, k)) + mean);
      terms.largest(t, e) += (slope + tolerance::sigmoid_slope_error(logit)) / least_z * largest;
      terms.magnitude(t, e) += s.largest() * (1 + s.largest()) / least_z * largest;
    }
  }
  return terms;
}

LogitTerms softmax_terms(const Tracked& logits_TE, const IdMatrix& ids_TK, const Tracked& d_scores_TK, const model::ModelSpec& spec) {
  const Tracked w_TK = exact_scores(logits_TE, ids_TK, spec);
  const Tracked p_TE = softmax_weights(logits_TE, softmax(logits_TE.value));
  LogitTerms terms = no_terms(logits_TE);
  for (Dim t = 0; t < logits_TE.value.rows(); ++t) {
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
    if (spec.score_function == model::ScoreFunction::kSoftmaxAfterTopk) continue;
    terms.magnitude.row(t) += 2 * largest_mean * (p_TE.value.row(t) + p_TE.bound.row(t));
  }
  return terms;
}

}  // namespace

Tracked scores_backward(const Tracked& logits_TE, const IdMatrix& ids_TK, const Tracked& d_scores_TK, const model::ModelSpec& spec,
                        base::DType store) {
  const LogitTerms terms = is_sigmoid(spec) ? sigmoid_terms(logits_TE, ids_TK, d_scores_TK, spec)
                                           : softmax_terms(logits_TE, ids_TK, d_scores_TK, spec);
  const double scale = spec.routed_scale;
  // As grad_stages.cpp has it for a softmax after the top-k, without its signs.
  const bool is_after = spec.score_function == model::ScoreFunction::kSoftmaxAfterTopk;
  const StageBound stage(Stage::kSoftmaxGradient, store, spec.num_experts + kSoftmaxTerms, is_after ? 2 : 0);
  const Matrix<double> d_logits_TE = scores_backward(logits_TE.value, ids_TK, d_scores_TK.value, spec);
  Matrix<double> bound(d_logits_TE.rows(), d_logits_TE.cols());
  for (Dim i = 0; i < d_logits_TE.size(); ++i) {
    const double propagated = scale * (terms.largest.data()[i] - terms.plain.data()[i]);
    bound.data()[i] = tolerance::composed(stage, d_logits_TE.data()[i], propagated, scale * terms.magnitude.data()[i],
                                            scale * terms.largest.data()[i]);
  }
  return tracked(d_logits_TE, std::move(bound));
}

}  // namespace moecheck::reference
