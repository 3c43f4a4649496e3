#include "tests/unit/reference/backward_fixtures.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace moecheck::reference {
namespace {

// First-order errors get this much room for their products.
constexpr double kSecondOrder = 1.01;
// Roundings of exp, of a division and of a product or two, each at most a few units.
constexpr double kPointwise = 8;
constexpr double kMaxSiluSlope = 1.0999;
constexpr double kMaxSiluCurvature = 0.5;  // silu''(0)

// A number that an implementation computes with an error of at most `error` unit roundoffs, to first order. `magnitude` is
// the sum over its summands' absolute values, so that errors hold for any order of summation and of nested sums.
struct Term {
  double value = 0;
  double magnitude = 0;
  double error = 0;
};

Term exact(double value) { return {value, std::fabs(value), 0}; }
// Where every implementation has this number as such, before it goes on.
Term intermediate(const Term& a) { return {a.value, std::fabs(a.value), a.error}; }

Term operator*(const Term& a, const Term& b) {
  const double magnitude = a.magnitude * b.magnitude;
  return {a.value * b.value, magnitude, a.magnitude * b.error + b.magnitude * a.error + magnitude};
}

// A function of `argument` whose slope nowhere exceeds `slope`, and whose own roundings grow with the argument.
Term applied(double value, const Term& argument, double slope) {
  const double own = kPointwise * (1 + std::fabs(argument.value)) * std::fabs(value) + kPointwise;
  return {value, std::fabs(value), slope * argument.error + own};
}

class Sum {
 public:
  void operator+=(const Term& b) {
    sum_.value += b.value;
    sum_.magnitude += b.magnitude;
    sum_.error += b.error;
    ++count_;
  }
  Term term() const { return {sum_.value, sum_.magnitude, sum_.error + count_ * sum_.magnitude}; }

 private:
  Term sum_;
  double count_ = 0;
};

using Sums = std::vector<std::vector<Sum>>;
Sums sums(Dim rows, Dim columns) {
  return Sums(static_cast<std::size_t>(rows), std::vector<Sum>(static_cast<std::size_t>(columns)));
}
Sum& at(Sums& all, Dim row, Dim column) { return all[static_cast<std::size_t>(row)][static_cast<std::size_t>(column)]; }

class NaiveSums {
 public:
  explicit NaiveSums(const BackwardCase<double>& one) : one_(one), spec_(one.spec) {
    gradients["x"] = sums(num_tokens(), spec_.d_model);
    gradients["router"] = sums(spec_.num_experts, spec_.d_model);
    gradients["scores"] = sums(num_tokens(), spec_.top_k);
    gradients["logits"] = sums(num_tokens(), spec_.num_experts);
    for (Dim e = 0; e < spec_.num_experts; ++e) {
      gradients[expert_name("gate_up", e)] = sums(2 * spec_.d_ff, spec_.d_model);
      gradients[expert_name("down", e)] = sums(spec_.d_model, spec_.d_ff);
    }
    for (Dim t = 0; t < num_tokens(); ++t) add_token(t);
  }

  std::map<std::string, Sums> gradients;
  Sum loss;

 private:
  Dim num_tokens() const { return one_.x_TD.rows(); }
  Term x(Dim t, Dim d) const { return exact(one_.x_TD(t, d)); }
  Term d_y(Dim t, Dim d) const { return exact(one_.d_y_TD(t, d)); }

  Term dot_x(Dim t, const Matrix<double>& w, Dim row) const {
    Sum sum;
    for (Dim d = 0; d < spec_.d_model; ++d) sum += x(t, d) * exact(w(row, d));
    return intermediate(sum.term());
  }

  // The scores depend on the logits of the chosen experts only.
  bool is_closed() const { return spec_.score_function == model::ScoreFunction::kSoftmaxAfterTopk || spec_.renormalise; }

  // p_e = exp(h_e) / sum_j exp(h_j), over the experts or the slots' experts.
  struct Shares {
    std::vector<double> p_E;
    double z = 1;               // what p is divided by to give a score
    double relative_error = 0;  // of p and of p / z
  };

  Shares shares(Dim t) const {
    Shares result;
    double total = 0, largest = 0, largest_error = 0;
    for (Dim e = 0; e < spec_.num_experts; ++e) {
      const Term h = dot_x(t, one_.weights.w_router_ED, e);
      result.p_E.push_back(std::exp(h.value));
      total += result.p_E.back();
      largest = std::max(largest, std::fabs(h.value));
      largest_error = std::max(largest_error, h.error);
    }
    for (double& p : result.p_E) p /= total;
    if (is_closed()) {
      result.z = 0;
      for (Dim k = 0; k < spec_.top_k; ++k) result.z += p_of(result, t, k);
    }
    // exp turns absolute errors of h - max(h) into relative ones; they enter p, the sum below it, and z.
    result.relative_error = 3 * (largest_error + 2 * largest) + 2 * static_cast<double>(spec_.num_experts) + kPointwise;
    return result;
  }

  double p_of(const Shares& shares, Dim t, Dim k) const { return shares.p_E[static_cast<std::size_t>(one_.ids_TK(t, k))]; }

  void add_token(Dim t) {
    const Shares share = shares(t);
    for (Dim k = 0; k < spec_.top_k; ++k) {
      const double score = p_of(share, t, k) / share.z;
      add_row(t, k, {score, score, score * share.relative_error});
    }
    for (Dim j = 0; j < spec_.num_experts; ++j) add_logit(t, j, share);
  }

  // What one (token, slot) adds to everything but the router.
  void add_row(Dim t, Dim k, const Term& score) {
    const Dim e = one_.ids_TK(t, k);
    const Matrix<double>& w_in = one_.weights.experts[static_cast<std::size_t>(e)].w_gate_up_GD;
    const Matrix<double>& w_out = one_.weights.experts[static_cast<std::size_t>(e)].w_down_DF;
    Sums& d_gate_up_GD = gradients[expert_name("gate_up", e)];
    const bool is_before = one_.position == model::ScorePosition::kBeforeExperts;
    // The score stands before the experts, in what they are given, or behind them.
    const auto given = [&](Dim d) { return is_before ? score * x(t, d) : x(t, d); };
    const Term out_weight = is_before ? exact(1) : score;
    for (Dim f = 0; f < spec_.d_ff; ++f) {
      const Term plain_gate = dot_x(t, w_in, f), plain_up = dot_x(t, w_in, spec_.d_ff + f);
      const Term gate = is_before ? intermediate(score * plain_gate) : plain_gate;
      const Term up = is_before ? intermediate(score * plain_up) : plain_up;
      const double s = 1 / (1 + std::exp(-gate.value));
      const Term silu_value = applied(gate.value * s, gate, kMaxSiluSlope);
      const Term slope = applied(s + gate.value * s / (1 + std::exp(gate.value)), gate, kMaxSiluCurvature);
      Sum column;  // <column f of W_2, d_y_t>
      for (Dim d = 0; d < spec_.d_model; ++d) {
        column += d_y(t, d) * exact(w_out(d, f));
        at(gradients[expert_name("down", e)], d, f) += out_weight * silu_value * up * d_y(t, d);
      }
      const Term through_down = column.term();
      if (is_before) {
        add_score_before(t, k, through_down * up * slope, w_in, f);
        add_score_before(t, k, through_down * silu_value, w_in, spec_.d_ff + f);
      } else {
        at(gradients["scores"], t, k) += silu_value * up * through_down;
      }
      loss += out_weight * silu_value * up * through_down;
      for (Dim d = 0; d < spec_.d_model; ++d) {
        at(d_gate_up_GD, f, d) += out_weight * through_down * up * slope * given(d);
        at(d_gate_up_GD, spec_.d_ff + f, d) += out_weight * through_down * silu_value * given(d);
        at(gradients["x"], t, d) += score * through_down * up * slope * exact(w_in(f, d));
        at(gradients["x"], t, d) += score * through_down * silu_value * exact(w_in(spec_.d_ff + f, d));
      }
    }
  }

  // d_s = <x, d_in>, with the part of d_in that comes through row `row` of the packed gate and up weights.
  void add_score_before(Dim t, Dim k, const Term& d_row, const Matrix<double>& w_in, Dim row) {
    for (Dim d = 0; d < spec_.d_model; ++d) at(gradients["scores"], t, k) += d_row * exact(w_in(row, d)) * x(t, d);
  }

  // d_h_j = sum_k d_s_k ds_k/dh_j, where ds_k/dh_j = s_k ([j == i_k] - r_j) and r_j is the share of j: p_j, or where the
  // scores depend on the chosen only, the sum of j's scores.
  void add_logit(Dim t, Dim j, const Shares& share) {
    double slots = 0;  // of j; two if the expert was chosen twice
    for (Dim k = 0; k < spec_.top_k; ++k) slots += one_.ids_TK(t, k) == j ? 1 : 0;
    const double p_j = share.p_E[static_cast<std::size_t>(j)] / share.z;
    const double r_j = is_closed() ? slots * p_j : p_j;
    // Relative to what an implementation may form and cancel: p_j (d_s_k - <s, d_s>), and its weighted mean, each with z.
    const bool may_cancel = slots > 0 || spec_.score_function == model::ScoreFunction::kSoftmaxBeforeTopk;
    const double roundings = 3 * share.relative_error + static_cast<double>(spec_.num_experts + 2 * spec_.top_k) + kPointwise;
    Term d_h;
    for (Dim k = 0; k < spec_.top_k; ++k) {
      const Term d_s = intermediate(at(gradients["scores"], t, k).term());
      const double s_k = p_of(share, t, k) / share.z;
      const double own = one_.ids_TK(t, k) == j ? 1 : 0;
      const double weight = may_cancel ? s_k * (own + 3 * std::max(slots, 1.0) * p_j) : 0;
      d_h.value += d_s.value * s_k * (own - r_j);
      d_h.error += weight * (d_s.error + roundings * d_s.magnitude);
    }
    d_h.magnitude = std::fabs(d_h.value);
    at(gradients["logits"], t, j) += d_h;
    for (Dim d = 0; d < spec_.d_model; ++d) {
      at(gradients["router"], j, d) += d_h * x(t, d);
      at(gradients["x"], t, d) += d_h * exact(one_.weights.w_router_ED(j, d));
    }
  }

  const BackwardCase<double>& one_;
  const model::ModelSpec& spec_;
};

// Whole numbers from -3 to 3, of no pattern in row or column.
template <typename Scalar>
Matrix<Scalar> small_integers(Dim rows, Dim columns) {
  Matrix<Scalar> result(rows, columns);
  for (Dim i = 0; i < result.size(); ++i) result.data()[i] = static_cast<Scalar>((i * i + 5 * i / 3) % 7 - 3);
  return result;
}

}  // namespace

template <typename Scalar>
BackwardCase<Scalar> backward_case(const model::Problem& problem) {
  const auto ids_TK = generated_forward<double>(problem).ids_TK;
  auto x_TD = tokens_of<Scalar>(problem);
  auto d_y_TD = small_integers<Scalar>(x_TD.rows(), x_TD.cols());
  return {problem.model, StoredWeights<Scalar>(problem), std::move(x_TD), ids_TK, std::move(d_y_TD), problem.score_position};
}

model::Problem tiny_problem(const RouterVariant& variant) {
  model::Problem problem = small_problem(variant);
  problem.model.num_experts = 5;
  problem.model.top_k = 2;
  problem.model.d_model = 7;
  problem.model.d_ff = 4;
  problem.tokens_per_rank = {6};
  return problem;
}

std::string expert_name(const std::string& weight, Dim expert) { return weight + "/" + std::to_string(expert); }

template <typename Scalar>
NamedMatrices<Scalar> gradients_of(BackwardCase<Scalar>& one) {
  NamedMatrices<Scalar> named;
  const auto keep = [&](const ExpertGradient<Scalar>& gradient) {
    named[expert_name("gate_up", gradient.expert)] = gradient.d_gate_up_GD;
    named[expert_name("down", gradient.expert)] = gradient.d_down_DF;
  };
  const auto layer = MoeLayerBackward<Scalar>(one.spec, one.weights, one.position).backward(one.x_TD, one.ids_TK, one.d_y_TD, keep);
  named["x"] = layer.d_x_TD;
  named["router"] = layer.d_router_ED;
  named["scores"] = layer.d_scores_TK;
  named["logits"] = layer.d_logits_TE;
  return named;
}

NaiveBackward naive_backward(const BackwardCase<double>& one, double unit_roundoff) {
  NaiveSums naive(one);
  const double unit = kSecondOrder * unit_roundoff;
  NaiveBackward result;
  const Term loss = naive.loss.term();
  result.loss = loss.value;
  // A loss that is taken of the output sums up once more.
  result.loss_bound = unit * (loss.error + static_cast<double>(one.d_y_TD.size()) * loss.magnitude);
  for (auto& [name, all] : naive.gradients) {
    const auto rows = static_cast<Dim>(all.size());
    const auto columns = rows == 0 ? 0 : static_cast<Dim>(all.front().size());
    BoundedGradient& gradient = result.gradients[name];
    gradient = {Matrix<double>(rows, columns), Matrix<double>(rows, columns)};
    for (Dim i = 0; i < rows; ++i)
      for (Dim j = 0; j < columns; ++j) {
        const Term term = at(all, i, j).term();
        gradient.value(i, j) = term.value;
        gradient.bound(i, j) = unit * term.error;
      }
  }
  return result;
}

template <typename Scalar>
double used_bound(const Matrix<Scalar>& a, const BoundedGradient& b, double factor) {
  MOECHECK_REQUIRE(a.rows() == b.value.rows() && a.cols() == b.value.cols());
  double worst = 0;
  for (Dim i = 0; i < a.rows(); ++i)
    for (Dim j = 0; j < a.cols(); ++j) {
      const double difference = std::fabs(static_cast<double>(a(i, j)) - b.value(i, j));
      if (difference == 0) continue;
      const double used = difference / (factor * b.bound(i, j));
      worst = used <= std::numeric_limits<double>::max() ? std::max(worst, used) : std::numeric_limits<double>::infinity();
    }
  return worst;
}

template BackwardCase<float> backward_case(const model::Problem&);
template NamedMatrices<float> gradients_of(BackwardCase<float>&);
template double used_bound(const Matrix<float>&, const BoundedGradient&, double);
template BackwardCase<double> backward_case(const model::Problem&);
template NamedMatrices<double> gradients_of(BackwardCase<double>&);
template double used_bound(const Matrix<double>&, const BoundedGradient&, double);

}  // namespace moecheck::reference
