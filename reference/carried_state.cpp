#include "reference/carried_state.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "harness/trace/layout.h"

namespace moecheck::reference {
namespace {

using tolerance::Near;

NearFlat exact(Flat value) {
  Flat bound = Flat::Zero(1, value.size());
  return {std::move(value), std::move(bound)};
}

Near near_at(const NearFlat& flat, Dim i) { return {flat.value(0, i), flat.bound(0, i)}; }

// of(i): a Near.
template <typename Of>
NearFlat near_flat(Dim size, Of of) {
  NearFlat flat{Flat(1, size), Flat(1, size)};
  for (Dim i = 0; i < size; ++i) {
    const Near near = of(i);
    flat.value(0, i) = near.value;
    flat.bound(0, i) = near.bound;
  }
  return flat;
}

// bound_of(i): of value(0, i).
template <typename BoundOf>
NearFlat bounded(Flat value, BoundOf bound_of) {
  Flat bound(1, value.size());
  for (Dim i = 0; i < value.size(); ++i) bound(0, i) = bound_of(i);
  return {std::move(value), std::move(bound)};
}

}  // namespace

CarriedState::CarriedState(const cases::Case& one, std::span<const trace::Trace> batches, Stepped stepped)
    : one_(one), batches_(batches), stepped_(stepped), bounds_(stepped == Stepped::kMasters ? base::DType::kF32 : one.problem.dtype),
      num_steps_(one.step_of(one.first_batch)) {
  states_.resize(batches.back().ranks.size());
  predicted_.resize(states_.size());
  clips_.resize(states_.size());
  for (std::size_t r = 0; r < states_.size(); ++r)
    for (std::size_t p = 0; p < kStepParameters.size(); ++p) states_[r][p] = first_state(static_cast<Dim>(r), p);
}

// Of the step in hand.
std::optional<Flat> CarriedState::recorded(Dim rank, std::string_view prefix, std::size_t parameter) const {
  return recorded_shard(one_, batch(last_batch()), rank, std::string(prefix) + std::string(kStepParameters[parameter]));
}

// A life that was resumed begins with what its load shows, where the step before would have left it.
ShardState CarriedState::first_state(Dim rank, std::size_t parameter) const {
  const std::string name(kStepParameters[parameter]);
  ShardState state;
  if (one_.first_batch == 0) {
    if (auto theta = recorded_shard(one_, batch(0), rank, "param/" + name)) {
      state.m = state.v = exact(Flat::Zero(1, theta->size()));
      state.theta = exact(*std::move(theta));
    }
    return state;
  }
  const trace::Trace& loaded = batch(one_.first_batch - 1);
  if (auto m = recorded_shard(one_, loaded, rank, "optim/m/" + name)) state.m = exact(*std::move(m));
  if (auto v = recorded_shard(one_, loaded, rank, "optim/v/" + name)) state.v = exact(*std::move(v));
  if (auto master = recorded_shard(one_, loaded, rank, "optim/master/" + name)) {
    state.theta = exact(*std::move(master));
  } else if (auto shown = recorded_shard(one_, loaded, rank, "optim/param/" + name)) {
    state.theta = exact(*shown);
    if (stepped_ == Stepped::kMasters)
      state.theta = near_flat(shown->size(), [&](Dim i) { return tolerance::rounded_to((*shown)(0, i), one_.problem.dtype); });
  }
  // Without momentum the buffer before a step goes nowhere.
  if (!is_adamw() && one_.training.momentum == 0 && !state.m && state.theta) state.m = exact(Flat::Zero(1, state.theta->value.size()));
  return state;
}

std::optional<NearFlat> CarriedState::gradient_sum(Dim rank, std::size_t parameter) const {
  if (auto shown = recorded(rank, "optim/grad/", parameter)) return exact(*std::move(shown));
  const Dim microbatches = one_.training.microbatches;
  std::optional<GradientSum<double>> sum, magnitude;
  for (Dim b = num_steps_ * microbatches; b <= last_batch(); ++b) {
    const auto gradient = recorded_shard(one_, batch(b), rank, "grad/" + std::string(kStepParameters[parameter]));
    if (!gradient) return std::nullopt;
    if (!sum) {
      sum.emplace(1, gradient->size());
      magnitude.emplace(1, gradient->size());
    }
    sum->add(*gradient);
    magnitude->add(gradient->cwiseAbs());
  }
  return bounded(sum->sum(), [&](Dim i) { return bounds_.sum(magnitude->sum()(0, i), microbatches - 1); });
}

// Every shard once, as the lowest rank that holds it has it.
std::optional<Near> CarriedState::global_norm(const std::vector<Shards>& gradients) const {
  GlobalNorm norm;
  double bounds = 0;
  Dim num_squares = 0, num_parts = 0;
  for (std::size_t p = 0; p < kStepParameters.size(); ++p)
    for (Dim rank = 0; rank < one_.world_size(); ++rank) {
      if (trace::replica_group(one_.problem, "grad/" + std::string(kStepParameters[p]), rank).front() != rank) continue;
      if (at(rank) >= gradients.size() || !gradients[at(rank)][p]) return std::nullopt;
      const NearFlat& shard = *gradients[at(rank)][p];
      norm.add(shard.value);
      bounds += shard.bound.squaredNorm();
      num_squares += shard.value.size() + 1;   // its sum is a summand of the whole
      ++num_parts;
    }
  return Near{norm.value(), bounds_.norm(norm.value(), std::sqrt(bounds), num_squares, num_parts)};
}

// The factor falls with the norm.
Near CarriedState::clip_factor(const Near& norm) const {
  const double limit = one_.training.clip_norm, slack = bounds_.clip_slack();
  const double value = clip_coefficient(norm.value, limit);
  const double low = clip_coefficient((norm.value + norm.bound) * (1 + slack), limit);
  const double high = clip_coefficient(std::max(0.0, norm.value - norm.bound) * (1 - slack), limit);
  return {value, std::max(high - value, value - low)};
}

std::optional<Near> CarriedState::predicted_clip(Dim rank) const {
  if (one_.training.clip_norm <= 0) return Near{1, 0};
  if (const auto shown = recorded_shard(one_, batch(last_batch()), rank, "optim/norm_1")) return clip_factor({(*shown)(0, 0), 0});
  return norm_ ? std::optional(clip_factor(*norm_)) : std::nullopt;
}

NearFlat CarriedState::clipped(const NearFlat& gradient, const Near& clip) const {
  return bounded(clip.value * gradient.value, [&](Dim i) { return bounds_.clipped(near_at(gradient, i), clip); });
}

void CarriedState::step() {
  MOECHECK_REQUIRE(last_batch() < static_cast<Dim>(batches_.size()), std::to_string(last_batch()));
  std::vector<Shards> gradients(states_.size());
  for (std::size_t r = 0; r < states_.size(); ++r)
    for (std::size_t p = 0; p < kStepParameters.size(); ++p) gradients[r][p] = gradient_sum(static_cast<Dim>(r), p);
  norm_ = global_norm(gradients);
  for (std::size_t r = 0; r < states_.size(); ++r) {
    clips_[r] = predicted_clip(static_cast<Dim>(r));
    for (std::size_t p = 0; p < kStepParameters.size(); ++p) {
      predict(static_cast<Dim>(r), p, gradients[r][p]);
      take_over(static_cast<Dim>(r), p);
    }
  }
  ++num_steps_;
}

void CarriedState::predict(Dim rank, std::size_t parameter, const std::optional<NearFlat>& gradient) {
  const ShardState& before = states_[at(rank)][parameter];
  PredictedShard& after = predicted_[at(rank)][parameter];
  after = {};
  auto clip = clips_[at(rank)];
  if (const auto shown = recorded_shard(one_, batch(last_batch()), rank, "optim/clip_1")) clip = Near{(*shown)(0, 0), 0};
  if (gradient && clip) predict_moments(before, clipped(*gradient, *clip), after.state);
  // The weight steps with the moments that it is recorded to have stepped with.
  ShardState moments = after.state;
  if (auto m = recorded(rank, "optim/m/", parameter)) moments.m = exact(*std::move(m));
  if (auto v = recorded(rank, "optim/v/", parameter)) moments.v = exact(*std::move(v));
  if (!before.theta || !moments.m || (is_adamw() && !moments.v)) return;
  after.state.theta = weight(*before.theta, moments);
  after.param = copy_of(*after.state.theta);
}

void CarriedState::predict_moments(const ShardState& before, const NearFlat& gradient, ShardState& after) const {
  const auto g = [&](Dim i) { return near_at(gradient, i); };
  if (is_adamw()) {
    const AdamWOptions options = adamw_options(one_, num_steps_);
    if (before.m)
      after.m = bounded(adamw_m(before.m->value, gradient.value, options),
                        [&](Dim i) { return bounds_.first_moment(near_at(*before.m, i), g(i), options.beta1); });
    if (before.v)
      after.v = bounded(adamw_v(before.v->value, gradient.value, options),
                        [&](Dim i) { return bounds_.second_moment(near_at(*before.v, i), g(i), options.beta2); });
    return;
  }
  if (!before.theta || !before.m) return;
  const SgdOptions options = sgd_options(one_, num_steps_);
  after.m = bounded(sgd_momentum<double>({before.theta->value, before.m->value}, gradient.value, options), [&](Dim i) {
    return bounds_.momentum(near_at(*before.m, i), g(i), near_at(*before.theta, i), options.momentum, options.weight_decay);
  });
}

NearFlat CarriedState::weight(const NearFlat& theta, const ShardState& moments) const {
  if (is_adamw()) return adamw_weight(theta, *moments.m, *moments.v);
  const SgdOptions options = sgd_options(one_, num_steps_);
  const Flat value = sgd_theta(theta.value, moments.m->value, options);
  return near_flat(value.size(), [&](Dim i) {
    return bounds_.sgd_weight(value(0, i), near_at(theta, i), near_at(*moments.m, i), options.learning_rate);
  });
}

NearFlat CarriedState::adamw_weight(const NearFlat& theta, const NearFlat& m, const NearFlat& v) const {
  const AdamWOptions options = adamw_options(one_, num_steps_);
  const Dim steps = num_steps_ + 1;
  const auto t = static_cast<double>(steps);
  const tolerance::AdamWRates rates = {.learning_rate = options.learning_rate,
                                       .keep = 1 - options.learning_rate * options.weight_decay,
                                       .correction_m = 1 - std::pow(options.beta1, t),
                                       .correction_v = 1 - std::pow(options.beta2, t),
                                       .eps = options.eps,
                                       .ratio_limit = bounds_.adamw_ratio_limit(options.beta1, options.beta2, steps)};
  const Flat value = adamw_theta<double>({theta.value, m.value, v.value, steps}, options);
  return near_flat(value.size(), [&](Dim i) {
    return bounds_.adamw_weight(value(0, i), near_at(theta, i), near_at(m, i), near_at(v, i), rates);
  });
}

// The weights that the next forward uses.
NearFlat CarriedState::copy_of(const NearFlat& theta) const {
  if (stepped_ == Stepped::kInDtype) return theta;
  return near_flat(theta.value.size(), [&](Dim i) { return tolerance::stored(near_at(theta, i), one_.problem.dtype); });
}

// What the step in hand left, as far as it is recorded: its outcome, or the parameters that the next batch begins with.
void CarriedState::take_over(Dim rank, std::size_t parameter) {
  const PredictedShard& predicted = predicted_[at(rank)][parameter];
  ShardState& state = states_[at(rank)][parameter];
  state = predicted.state;
  if (auto m = recorded(rank, "optim/m/", parameter)) state.m = exact(*std::move(m));
  if (auto v = recorded(rank, "optim/v/", parameter)) state.v = exact(*std::move(v));
  if (auto master = recorded(rank, "optim/master/", parameter)) {
    state.theta = exact(*std::move(master));
    return;
  }
  auto shown = recorded(rank, "optim/param/", parameter);
  if (!shown && last_batch() + 1 < static_cast<Dim>(batches_.size()))
    shown = recorded_shard(one_, batch(last_batch() + 1), rank, "param/" + std::string(kStepParameters[parameter]));
  if (!shown) return;
  state.theta = exact(*shown);
  if (stepped_ == Stepped::kInDtype) return;
  state.theta = near_flat(shown->size(), [&](Dim i) {
    const Near copied = tolerance::rounded_to((*shown)(0, i), one_.problem.dtype);
    return predicted.state.theta ? tolerance::narrowed(near_at(*predicted.state.theta, i), copied) : copied;
  });
}

}  // namespace moecheck::reference
