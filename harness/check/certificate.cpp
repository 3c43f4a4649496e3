#include "harness/check/certificate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "harness/tolerance/composed.h"

namespace moecheck::check {

Certificate certify(const TokenLogits& logits, const std::vector<Dim>& chosen) {
  Certificate result;
  double weakest = std::numeric_limits<double>::infinity();
  double strongest = -std::numeric_limits<double>::infinity();
  for (Dim e = 0; e < static_cast<Dim>(logits.value.size()); ++e) {
    const auto at = static_cast<std::size_t>(e);
    result.is_finite = result.is_finite && std::isfinite(logits.value[at]);
    if (std::ranges::find(chosen, e) != chosen.end()) {
      if (const double hi = logits.value[at] + logits.bound[at]; hi < weakest) {
        weakest = hi;
        result.chosen = e;
      }
    } else if (const double lo = logits.value[at] - logits.bound[at]; lo > strongest) {
      strongest = lo;
      result.better = e;
    }
  }
  result.is_admissible = weakest >= strongest;
  result.is_tied = result.better >= 0 && result.chosen >= 0 &&
                    logits.value[static_cast<std::size_t>(result.chosen)] == logits.value[static_cast<std::size_t>(result.better)];
  return result;
}

namespace {

TokenLogits as_softmax_sees(TokenLogits logits) {
  const double floor = std::ranges::max(logits.value) - tolerance::softmax_flush_distance();
  for (double& value : logits.value) value = value < floor ? floor : value;   // NaN stays
  return logits;
}

TokenLogits as_sigmoid_sees(TokenLogits logits) {
  for (std::size_t e = 0; e < logits.value.size(); ++e) {
    const double value = 1 / (1 + std::exp(-logits.value[e]));
    logits.bound[e] = tolerance::sigmoid_error({logits.value[e], logits.bound[e]}) + tolerance::sigmoid_order_slack(value);
    logits.value[e] = value;
  }
  return logits;
}

}  // namespace

TokenLogits as_choice_sees(const model::ModelSpec& model, TokenLogits logits) {
  switch (model.score_function) {
    case model::ScoreFunction::kSoftmaxBeforeTopk: return as_softmax_sees(std::move(logits));
    case model::ScoreFunction::kSigmoid: return as_sigmoid_sees(std::move(logits));
    case model::ScoreFunction::kSoftmaxAfterTopk: break;
  }
  return logits;
}

std::vector<Dim> chosen_of(const base::HostTensor& ids_TK, Dim token) {
  std::vector<Dim> chosen;
  for (Dim n = token * ids_TK.dim(1); n < (token + 1) * ids_TK.dim(1); ++n) chosen.push_back(ids_TK.int_at(n));
  std::ranges::sort(chosen);
  return chosen;
}

std::vector<Dim> top_k_of(const std::vector<double>& logits, std::size_t top_k) {
  std::vector<Dim> order(logits.size());
  std::iota(order.begin(), order.end(), Dim{0});
  const auto logit = [&](Dim e) { return logits[static_cast<std::size_t>(e)]; };
  std::ranges::stable_sort(order, [&](Dim a, Dim b) { return logit(a) > logit(b); });
  order.resize(top_k);
  std::ranges::sort(order);
  return order;
}

}  // namespace moecheck::check
