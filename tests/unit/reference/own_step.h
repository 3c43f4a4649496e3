// A training whose steps are taken here (own_update.h), on every rank's shards, and misdeeds in it. Header only: the tests of the
// reference and of the checks are programs of their own. No numerics of the reference.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "harness/cases/case.h"
#include "harness/trace/layout.h"
#include "harness/trace/trace.h"
#include "tests/unit/reference/own_update.h"

namespace moecheck::own_step {

using model::Dim;
using Values = std::vector<double>;

inline const std::array<std::string, 3> kNames = {"router/w_ED", "experts/gate_up_EGD", "experts/down_EDF"};
constexpr Dim kStillExpert = 1;   // of kExpertStill

enum class Misdeed { kNone, kRateDoubled, kNoDecay, kNoClip, kOwnNorm, kBeta2, kNoCorrection, kStepStuck, kExpertStill, kAveraged };

struct Knobs {
  const char* mesh = "ep=2";
  cases::OptimizerKind optimizer = cases::OptimizerKind::kAdamW;
  base::DType dtype = base::DType::kF32;
  bool has_masters = true;   // fp32, behind parameters of another dtype
  double clip_norm = 1;
  Dim steps = 3;
  Dim microbatches = 2;
  bool has_tiny_gradients = true;   // near adamw's eps
  Misdeed misdeed = Misdeed::kNone;
};

class Training {
 public:
  explicit Training(const Knobs& knobs) : knobs_(knobs), state_(knobs.has_masters ? base::DType::kF32 : knobs.dtype) {
    one.problem.model = {.family = "tiny", .num_experts = 4, .top_k = 2, .d_model = 16, .d_ff = 12, .activation = {}, .names = {}};
    one.problem.mesh = model::Mesh::parse(knobs.mesh).value();
    one.problem.dtype = knobs.dtype;
    one.phases = {"load", "forward", "backward", "step"};
    one.training = {.steps = knobs.steps, .microbatches = knobs.microbatches, .optimizer = knobs.optimizer, .learning_rate = 0.015625,
                    .lr_decay = 0.5, .momentum = 0.5, .weight_decay = 0.0625, .clip_norm = knobs.clip_norm};
    shards_.resize(static_cast<std::size_t>(one.world_size()));
    for (Dim rank = 0; rank < one.world_size(); ++rank)
      for (const std::string& name : kNames) {
        Shard& shard = at(rank, name);
        shard.theta = shard.param = cut(rank, name, random(name, -1, 0.2));
        shard.m = shard.v = Values(shard.theta.size(), 0.0);
      }
    for (Dim batch = 0; batch < one.num_batches(); ++batch) take(batch);
  }

  cases::Case one;
  std::vector<trace::Trace> batches;

  // Taps of the steps that begin so are shown, and no others.
  void show_only(const std::vector<std::string>& prefixes) {
    for (trace::Trace& batch : batches)
      for (trace::RankTrace& rank : batch.ranks)
        std::erase_if(rank.taps, [&](const auto& tap) {
          const auto begins = [&](const std::string& prefix) { return tap.first.starts_with(prefix); };
          return tap.first.starts_with("optim/") && std::ranges::none_of(prefixes, begins);
        });
  }

 private:
  struct Shard {
    Values theta, param, m, v, sum;
  };

  Shard& at(Dim rank, const std::string& name) { return shards_.at(static_cast<std::size_t>(rank))[name]; }
  bool does(Misdeed misdeed) const { return knobs_.misdeed == misdeed; }
  bool is_adamw() const { return knobs_.optimizer == cases::OptimizerKind::kAdamW; }
  double rounded(double x) const { return stored(x, state_); }

  // Of the whole tensor; batch -1: the weights. Some gradients are zero, tiny, or cancel over the microbatches.
  Values random(const std::string& name, Dim batch, double size) const {
    const base::Shape shape = trace::global_param_shape(one.problem.model, "param/" + name);
    std::mt19937_64 engine(static_cast<std::uint64_t>(batch + 2) * 1000 + name.size());
    std::normal_distribution<double> normal(0.0, size);
    Values values(static_cast<std::size_t>(base::num_elements(shape)));
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = base::round_to(one.problem.dtype, normal(engine));
      if (batch < 0) continue;
      if (i % 37 == 5) values[i] = 0;
      if (knobs_.has_tiny_gradients && i % 37 == 11) values[i] = base::round_to(one.problem.dtype, values[i] * 1e-9);
      if (i % 37 == 20) values[i] = batch % 2 == 0 ? 0.125 : -0.125;
    }
    return values;
  }

  Values cut(Dim rank, const std::string& name, const Values& global) const {
    const std::string tap = "param/" + name;
    const base::Shape shape = trace::global_param_shape(one.problem.model, tap);
    std::vector<Dim> flat = {0};
    for (std::size_t d = 0; d < shape.size(); ++d) {
      std::vector<Dim> next;
      for (const Dim before : flat)
        for (const Dim index : trace::declared_indices(one.problem, tap, rank, static_cast<Dim>(d)))
          next.push_back(before * shape[d] + index);
      flat = next;
    }
    Values values;
    for (const Dim index : flat) values.push_back(global[static_cast<std::size_t>(index)]);
    return values;
  }

  void show(trace::RankTrace& rank, const std::string& tap, base::DType dtype, const Values& values) const {
    base::Shape shape = *trace::declared_shape(one.problem, tap, rank.rank, {});
    rank.taps[tap] = {base::tensor_from_doubles(dtype, shape, values), {}, shape};
  }

  void take(Dim batch) {
    trace::Trace& trace = batches.emplace_back();
    for (Dim rank = 0; rank < one.world_size(); ++rank) {
      trace.ranks.emplace_back().rank = rank;
      for (const std::string& name : kNames) {
        Shard& shard = at(rank, name);
        const Values gradient = cut(rank, name, random(name, batch, 0.05 * static_cast<double>(1 + one.step_of(batch))));
        show(trace.ranks.back(), "param/" + name, knobs_.dtype, shard.param);
        show(trace.ranks.back(), "grad/" + name, knobs_.dtype, gradient);
        const bool is_first = batch % one.training.microbatches == 0;
        if (is_first) shard.sum = Values(gradient.size(), 0.0);
        for (std::size_t i = 0; i < gradient.size(); ++i) shard.sum[i] = rounded(shard.sum[i] + gradient[i]);
      }
    }
    if (one.ends_step(batch)) step(trace, one.step_of(batch));
  }

  double norm_of(Dim of_rank) {
    double squares = 0;
    for (const std::string& name : kNames)
      for (Dim rank = 0; rank < one.world_size(); ++rank) {
        const bool is_first = trace::replica_group(one.problem, "param/" + name, rank).front() == rank;
        const bool counts = does(Misdeed::kOwnNorm) ? rank == of_rank : is_first;
        double part = 0;
        for (const double g : at(rank, name).sum) part = fp32(part + fp32(g * g));
        const double root = rounded(std::sqrt(part));
        if (counts) squares += root * root;
      }
    return rounded(std::sqrt(squares));
  }

  void step(trace::Trace& trace, Dim step) {
    std::vector<double> norms;
    for (Dim rank = 0; rank < one.world_size(); ++rank) norms.push_back(norm_of(rank));
    for (Dim rank = 0; rank < one.world_size(); ++rank) {
      trace::RankTrace& shown = trace.ranks[static_cast<std::size_t>(rank)];
      const double norm = norms[static_cast<std::size_t>(rank)], limit = one.training.clip_norm;
      double clip = limit > 0 ? std::min(1.0, rounded(limit / rounded(norm + 1e-6))) : 1;
      if (does(Misdeed::kNoClip)) clip = 1;
      show(shown, "optim/norm_1", base::DType::kF32, {norm});
      show(shown, "optim/clip_1", base::DType::kF32, {clip});
      for (const std::string& name : kNames) {
        Shard& shard = at(rank, name);
        if (does(Misdeed::kAveraged))
          for (double& g : shard.sum) g = rounded(g / static_cast<double>(one.training.microbatches));
        show(shown, "optim/grad/" + name, base::DType::kF32, shard.sum);
        update(rank, name, clip, step);
        show(shown, "optim/m/" + name, base::DType::kF32, shard.m);
        if (is_adamw()) show(shown, "optim/v/" + name, base::DType::kF32, shard.v);
        if (knobs_.has_masters) show(shown, "optim/master/" + name, base::DType::kF32, shard.theta);
        show(shown, "optim/param/" + name, knobs_.dtype, shard.param);
      }
    }
  }

  void update(Dim rank, const std::string& name, double clip, Dim step) {
    Shard& shard = at(rank, name);
    const auto held = trace::declared_indices(one.problem, "param/" + name, rank, 0);
    const std::size_t columns = held.empty() ? 0 : shard.theta.size() / held.size();
    for (std::size_t i = 0; i < shard.theta.size(); ++i) {
      const double before = shard.theta[i], gradient = rounded(shard.sum[i] * clip);
      const Rates rates = {.learning_rate = one.learning_rate_of(step) * (does(Misdeed::kRateDoubled) ? 2 : 1),
                           .decay = does(Misdeed::kNoDecay) ? 0 : one.training.weight_decay,
                           .momentum = one.training.momentum,
                           .beta2 = does(Misdeed::kBeta2) ? 0.99 : cases::Training::kBeta2,
                           .is_corrected = !does(Misdeed::kNoCorrection)};
      const Dim steps = does(Misdeed::kStepStuck) && step > 0 ? step : step + 1;
      const Element element = {shard.theta[i], shard.m[i], shard.v[i]};
      if (is_adamw()) adamw(element, gradient, steps, rates, state_);
      else sgd(element, gradient, steps, rates, state_);
      if (does(Misdeed::kExpertStill) && name == kNames[2] && held[i / columns] == kStillExpert) shard.theta[i] = before;
      shard.param[i] = base::round_to(knobs_.dtype, shard.theta[i]);
    }
  }

  Knobs knobs_;
  base::DType state_;
  std::vector<std::map<std::string, Shard>> shards_;
};

}  // namespace moecheck::own_step
