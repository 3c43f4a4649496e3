#include "tests/unit/reference/layer_fixtures.h"

#include <cmath>
#include <limits>

namespace moecheck::reference {
namespace {

// First-order bounds get this much room for the products of errors that they leave out.
constexpr double kSecondOrder = 1.01;
// Roundings of exp, of a division and of a product or two, each at most a few units.
constexpr double kPointwise = 8;
// |silu'| nowhere exceeds this.
constexpr double kMaxSlope = 1.0999;

double gamma(double n, double u) { return n * u / (1 - n * u); }

double used(double a, double b, double bound) {
  const double difference = std::fabs(a - b);
  if (difference == 0) return 0;
  if (!(difference <= std::numeric_limits<double>::max()) || !(bound > 0)) return std::numeric_limits<double>::infinity();
  return difference / bound;
}

using Row = std::vector<float>;

// sum_k a_k w_k with a bounded, w exact.
Bounded dot(const std::vector<Bounded>& a, const Row& w, double u) {
  double value = 0, magnitude = 0, inherited = 0;
  for (std::size_t k = 0; k < a.size(); ++k) {
    value += a[k].value * static_cast<double>(w[k]);
    magnitude += std::fabs(a[k].value * static_cast<double>(w[k]));
    inherited += a[k].bound * std::fabs(static_cast<double>(w[k]));
  }
  return {value, gamma(static_cast<double>(a.size()), u) * magnitude + inherited * kSecondOrder};
}

class NaiveLayer {
 public:
  NaiveLayer(const model::Problem& problem, double u) : problem_(problem), generator_(problem), u_(u) {}

  std::vector<Bounded> token(Dim t) const {
    Row row(static_cast<std::size_t>(problem_.model.d_model));
    generator_.token_row(t, row);
    std::vector<Bounded> x;
    for (const float v : row) x.push_back({static_cast<double>(v), 0});
    return x;
  }

  std::vector<Bounded> logits(const std::vector<Bounded>& x) const {
    std::vector<Bounded> h;
    Row row(x.size());
    for (Dim e = 0; e < problem_.model.num_experts; ++e) {
      generator_.router_row(e, row);
      h.push_back(dot(x, row, u_));
    }
    return h;
  }

  // Repeatedly the largest that is left; the first of equals.
  std::vector<Dim> choose(const std::vector<Bounded>& h) const {
    std::vector<Dim> chosen;
    std::vector<bool> is_taken(h.size(), false);
    while (static_cast<Dim>(chosen.size()) < problem_.model.top_k) {
      std::size_t best = h.size();
      for (std::size_t e = 0; e < h.size(); ++e)
        if (!is_taken[e] && (best == h.size() || h[e].value > h[best].value)) best = e;
      is_taken[best] = true;
      chosen.push_back(static_cast<Dim>(best));
    }
    return chosen;
  }

  std::vector<Bounded> scores(const std::vector<Bounded>& h, const std::vector<Dim>& chosen) const {
    std::vector<Bounded> over;  // what the softmax runs over
    if (problem_.model.score_function == model::ScoreFunction::kSoftmaxAfterTopk) {
      for (const Dim e : chosen) over.push_back(h[static_cast<std::size_t>(e)]);
    } else {
      over = h;
    }
    double total = 0;
    for (const Bounded& one : over) total += std::exp(one.value);
    double average_bound = 0;
    for (const Bounded& one : over) average_bound += std::exp(one.value) / total * one.bound;
    std::vector<Bounded> result;
    double chosen_total = 0;
    for (std::size_t k = 0; k < chosen.size(); ++k) {
      const Bounded& one = problem_.model.score_function == model::ScoreFunction::kSoftmaxAfterTopk ? over[k] : over[static_cast<std::size_t>(chosen[k])];
      const double p = std::exp(one.value) / total;
      result.push_back({p, p * kSecondOrder * (one.bound + average_bound + (static_cast<double>(over.size()) + kPointwise) * u_ +
                                               range_roundoff(over))});
      chosen_total += p;
    }
    if (problem_.model.score_function == model::ScoreFunction::kSoftmaxBeforeTopk && problem_.model.renormalise) renormalise(result, chosen_total);
    return result;
  }

  std::vector<Bounded> expert(Dim e, const std::vector<Bounded>& x) const {
    Row row(x.size());
    std::vector<Bounded> act;
    for (Dim f = 0; f < problem_.model.d_ff; ++f) {
      generator_.gate_up_row(e, f, row);
      const Bounded gate = dot(x, row, u_);
      generator_.gate_up_row(e, problem_.model.d_ff + f, row);
      const Bounded up = dot(x, row, u_);
      const double silu_value = gate.value / (1 + std::exp(-gate.value));
      const double h = silu_value * up.value;
      act.push_back({h, kSecondOrder * (kMaxSlope * std::fabs(up.value) * gate.bound + std::fabs(silu_value) * up.bound +
                                        kMaxSlope * gate.bound * up.bound + (kPointwise + std::fabs(gate.value)) * u_ * std::fabs(h))});
    }
    std::vector<Bounded> out;
    Row down(static_cast<std::size_t>(problem_.model.d_ff));
    for (Dim d = 0; d < problem_.model.d_model; ++d) {
      generator_.down_row(e, d, down);
      out.push_back(dot(act, down, u_));
    }
    return out;
  }

  std::vector<Bounded> token_output(const std::vector<Bounded>& x, const std::vector<Dim>& chosen, const std::vector<Bounded>& s) const {
    std::vector<Bounded> y(x.size());
    const bool is_before = problem_.score_position == model::ScorePosition::kBeforeExperts;
    for (std::size_t k = 0; k < chosen.size(); ++k) {
      const Bounded weight = is_before ? Bounded{1, 0} : s[k];
      const auto out = expert(chosen[k], is_before ? scaled(x, s[k]) : x);
      for (std::size_t d = 0; d < y.size(); ++d) {
        y[d].value += weight.value * out[d].value;
        y[d].bound += kSecondOrder * (std::fabs(weight.value) * out[d].bound + std::fabs(out[d].value) * weight.bound +
                                      gamma(static_cast<double>(chosen.size()) + 1, u_) * std::fabs(weight.value * out[d].value));
      }
    }
    return y;
  }

 private:
  std::vector<Bounded> scaled(std::vector<Bounded> x, const Bounded& by) const {
    for (Bounded& one : x) one = {one.value * by.value, kSecondOrder * std::fabs(one.value) * (by.bound + u_ * std::fabs(by.value))};
    return x;
  }

  static double max_abs(const std::vector<Bounded>& h) {
    double largest = 0;
    for (const Bounded& one : h) largest = std::max(largest, std::fabs(one.value));
    return largest;
  }

  // h - max(h) is rounded before exp.
  double range_roundoff(const std::vector<Bounded>& h) const { return 2 * 2 * max_abs(h) * u_; }

  void renormalise(std::vector<Bounded>& s, double total) const {
    double total_bound = 0;
    for (const Bounded& one : s) total_bound += one.bound;
    for (Bounded& one : s) {
      const double relative = one.bound / one.value + total_bound / total + (static_cast<double>(s.size()) + 1) * u_;
      one.value /= total;
      one.bound = kSecondOrder * one.value * relative;
    }
  }

  const model::Problem& problem_;
  inputs::Generator generator_;
  double u_;
};

}  // namespace

std::vector<RouterVariant> router_variants() {
  return {{"softmax_topk_renormalise", model::ScoreFunction::kSoftmaxBeforeTopk, true},
          {"softmax_topk", model::ScoreFunction::kSoftmaxBeforeTopk, false},
          {"topk_softmax", model::ScoreFunction::kSoftmaxAfterTopk, true}};
}

std::vector<RouterVariant> layer_variants() {
  std::vector<RouterVariant> variants = router_variants();
  for (RouterVariant variant : router_variants()) {
    variant.name += "_before_experts";
    variant.position = model::ScorePosition::kBeforeExperts;
    variants.push_back(std::move(variant));
  }
  return variants;
}

model::Problem small_problem(const RouterVariant& variant) {
  model::Problem problem;
  problem.model.num_experts = 7;
  problem.model.top_k = 3;
  problem.model.d_model = 20;
  problem.model.d_ff = 12;
  problem.model.score_function = variant.score_function;
  problem.model.renormalise = variant.renormalise;
  problem.score_position = variant.position;
  problem.tokens_per_rank = {9};
  problem.seed = 5;
  return problem;
}

model::Problem exact_problem(Dim top_k, std::uint64_t seed) {
  model::Problem problem = small_problem();
  problem.model.num_experts = 12;
  problem.model.top_k = top_k;
  problem.values = model::Values::kExact;
  problem.seed = seed;
  return problem;
}

NaiveOutput naive_forward(const model::Problem& problem, double unit_roundoff) {
  const NaiveLayer layer(problem, unit_roundoff);
  NaiveOutput output;
  for (Dim t = 0; t < problem.num_tokens(0); ++t) {
    const auto x = layer.token(t);
    const auto h = layer.logits(x);
    const auto chosen = layer.choose(h);
    const auto scores = layer.scores(h, chosen);
    output.y.push_back(layer.token_output(x, chosen, scores));
    output.ids.push_back(chosen);
    output.scores.push_back(scores);
  }
  return output;
}

template <typename Scalar>
double used_bound(const Matrix<Scalar>& a_TD, const std::vector<std::vector<Bounded>>& b, double factor) {
  double worst = 0;
  for (Dim t = 0; t < a_TD.rows(); ++t)
    for (Dim d = 0; d < a_TD.cols(); ++d) {
      const Bounded& one = b.at(static_cast<std::size_t>(t)).at(static_cast<std::size_t>(d));
      worst = std::max(worst, used(static_cast<double>(a_TD(t, d)), one.value, factor * one.bound));
    }
  return worst;
}

template <typename Scalar>
double used_bound(const Matrix<Scalar>& a_TD, const Matrix<Scalar>& b_TD, const std::vector<std::vector<Bounded>>& bounds, double factor) {
  double worst = 0;
  for (Dim t = 0; t < a_TD.rows(); ++t)
    for (Dim d = 0; d < a_TD.cols(); ++d)
      worst = std::max(worst, used(static_cast<double>(a_TD(t, d)), static_cast<double>(b_TD(t, d)),
                                   factor * bounds.at(static_cast<std::size_t>(t)).at(static_cast<std::size_t>(d)).bound));
  return worst;
}

template double used_bound(const Matrix<float>&, const std::vector<std::vector<Bounded>>&, double);
template double used_bound(const Matrix<double>&, const std::vector<std::vector<Bounded>>&, double);
template double used_bound(const Matrix<float>&, const Matrix<float>&, const std::vector<std::vector<Bounded>>&, double);
template double used_bound(const Matrix<double>&, const Matrix<double>&, const std::vector<std::vector<Bounded>>&, double);

}  // namespace moecheck::reference
