#include "reference/step_stages.h"

#include <array>
#include <string>

#include "harness/trace/layout.h"
#include "reference/optimizer.h"
#include "reference/recorded_shard.h"
#include "reference/stages.h"

namespace moecheck::reference {
namespace {

// Roundings from an input to the result in fp32, those of the constants (formed in double) included.
constexpr Dim kClipTerms = 6;    // norm + 1e-6 (2), division, perhaps as a reciprocal and a product (3), the limit (1)
constexpr Dim kMomentTerms = 8;  // clipping (twice in g^2: 2), g^2 (1), 1 - b and the product with it (2), sum (1); as an interpolation
                                 // m + (1 - b)(g - m) two more on parts of a tenth the size
constexpr Dim kSgdMomentumTerms = 6;  // decay and its product (2), sum with the clipped gradient (2), mu and its product, sum
constexpr Dim kSgdThetaTerms = 4;     // rate, product, sum
constexpr Dim kAdamWThetaTerms = 14;  // both corrections (4), root, eps and sum (3), division, rate and product (3), sum; decay (2)

class RankStep {
 public:
  RankStep(const cases::Case& one, std::span<const trace::Trace> batches, Dim rank)
      : one_(one), batches_(batches), rank_(rank), step_(one.step_of(last_batch())) {}

  void write(trace::ExpectedRank& into) const {
    for (const std::string_view parameter : kStepParameters) {
      keep(into, "optim/grad/", parameter, gradient_sum(parameter));
      keep(into, "optim/m/", parameter, first_moment(parameter));
      keep(into, "optim/v/", parameter, second_moment(parameter));
      keep(into, "optim/master/", parameter, master(parameter));
      keep(into, "optim/param/", parameter, rounded_master(parameter));
    }
    if (auto clip = clip_factor()) into.taps.emplace("optim/clip_1", *std::move(clip));
    into.taps.emplace("optim/steps_3", step_counts());
  }

 private:
  Dim last_batch() const { return static_cast<Dim>(batches_.size()) - 1; }
  bool is_adamw() const { return one_.training.optimizer == cases::OptimizerKind::kAdamW; }
  SgdOptions sgd() const { return sgd_options(one_, step_); }
  AdamWOptions adamw() const { return adamw_options(one_, step_); }

  std::optional<Flat> recorded(Dim batch, const std::string& tap) const {
    return recorded_shard(one_, batches_[static_cast<std::size_t>(batch)], rank_, tap);
  }
  std::optional<Flat> recorded(const std::string& prefix, std::string_view parameter) const {
    return recorded(last_batch(), prefix + std::string(parameter));
  }
  // A moment before the step: zeros before the first.
  std::optional<Flat> moment_before(const std::string& prefix, std::string_view parameter, Dim size) const {
    if (step_ == 0) return Flat::Zero(1, size);
    return recorded(step_ * one_.training.microbatches - 1, prefix + std::string(parameter));
  }
  // The master before the step: the loaded parameter before the first.
  std::optional<Flat> master_before(std::string_view parameter) const {
    if (step_ == 0) return recorded(0, "param/" + std::string(parameter));
    return recorded(step_ * one_.training.microbatches - 1, "optim/master/" + std::string(parameter));
  }
  std::optional<Flat> clipped_gradient(std::string_view parameter) const {
    const auto gradient = recorded("optim/grad/", parameter);
    const auto clip = recorded(last_batch(), "optim/clip_1");
    if (!gradient || (!clip && one_.training.clip_norm > 0)) return std::nullopt;
    return Flat(*gradient * (clip ? (*clip)(0, 0) : 1.0));
  }

  static ExpectedTap flat_tap(const Flat& value, const Flat& magnitude, Dim terms) {
    ExpectedTap tap = make_tap(1, value.size(), terms);
    view_of(tap.value) = value;
    view_of(tap.magnitude) = magnitude;
    return tap;
  }
  // With the shape that the tap has on this rank.
  void keep(trace::ExpectedRank& into, const std::string& prefix, std::string_view parameter, std::optional<ExpectedTap> flat) const {
    if (!flat) return;
    const std::string name = prefix + std::string(parameter);
    const base::Shape shape = *trace::declared_shape(one_.problem, name, rank_, {});
    for (base::HostTensor* tensor : {&flat->value, &flat->magnitude}) {
      base::HostTensor shaped(base::DType::kF64, shape);
      std::ranges::copy(tensor->mutable_view<double>(), shaped.mutable_view<double>().begin());
      *tensor = shaped;
    }
    flat->is_comparable.assign(static_cast<std::size_t>(shape.at(0)), 1);
    into.taps.emplace(name, *std::move(flat));
  }

  std::optional<ExpectedTap> gradient_sum(std::string_view parameter) const {
    const Dim microbatches = one_.training.microbatches;
    std::optional<Flat> sum, magnitude;
    for (Dim batch = step_ * microbatches; batch <= last_batch(); ++batch) {
      const auto gradient = recorded(batch, "grad/" + std::string(parameter));
      if (!gradient) return std::nullopt;
      sum = sum ? Flat(*sum + *gradient) : *gradient;
      magnitude = magnitude ? Flat(*magnitude + gradient->cwiseAbs()) : Flat(gradient->cwiseAbs());
    }
    return flat_tap(*sum, *magnitude, microbatches - 1);
  }

  std::optional<ExpectedTap> clip_factor() const {
    const double limit = one_.training.clip_norm;
    const auto norm = recorded(last_batch(), "optim/norm_1");
    if (limit > 0 && !norm) return std::nullopt;
    const Flat factor = Flat::Constant(1, 1, limit > 0 ? clip_coefficient((*norm)(0, 0), limit) : 1.0);
    ExpectedTap tap = flat_tap(factor, factor.cwiseAbs(), limit > 0 ? kClipTerms : 0);
    tap.value = reshaped_to_one(tap.value);
    tap.magnitude = reshaped_to_one(tap.magnitude);
    return tap;
  }
  static base::HostTensor reshaped_to_one(const base::HostTensor& tensor) {
    return base::tensor_from_doubles(base::DType::kF64, {1}, tensor.to_doubles());
  }

  // The magnitude of a sum is the formula on absolute values.
  std::optional<ExpectedTap> first_moment(std::string_view parameter) const {
    const auto gradient = clipped_gradient(parameter);
    const auto before = gradient ? moment_before("optim/m/", parameter, gradient->size()) : std::nullopt;
    if (!before) return std::nullopt;
    if (is_adamw())
      return flat_tap(adamw_m(*before, *gradient, adamw()), adamw_m<double>(before->cwiseAbs(), gradient->cwiseAbs(), adamw()), kMomentTerms);
    const auto theta = master_before(parameter);
    if (!theta) return std::nullopt;
    return flat_tap(sgd_momentum<double>({*theta, *before}, *gradient, sgd()),
                    sgd_momentum<double>({theta->cwiseAbs(), before->cwiseAbs()}, gradient->cwiseAbs(), sgd()), kSgdMomentumTerms);
  }

  std::optional<ExpectedTap> second_moment(std::string_view parameter) const {
    if (!is_adamw()) return std::nullopt;
    const auto gradient = clipped_gradient(parameter);
    const auto before = gradient ? moment_before("optim/v/", parameter, gradient->size()) : std::nullopt;
    if (!before) return std::nullopt;
    const Flat v = adamw_v(*before, *gradient, adamw());
    return flat_tap(v, v.cwiseAbs(), kMomentTerms);
  }

  std::optional<ExpectedTap> master(std::string_view parameter) const {
    const auto theta = master_before(parameter);
    if (!theta) return std::nullopt;
    if (!is_adamw()) return sgd_master(parameter, *theta);
    const auto m = recorded("optim/m/", parameter);
    const auto v = recorded("optim/v/", parameter);
    if (!m || !v) return std::nullopt;
    return flat_tap(adamw_theta<double>({*theta, *m, *v, step_ + 1}, adamw()),
                    adamw_theta<double>({theta->cwiseAbs(), -m->cwiseAbs(), *v, step_ + 1}, adamw()), kAdamWThetaTerms);
  }

  std::optional<ExpectedTap> sgd_master(std::string_view parameter, const Flat& theta) const {
    auto momentum = recorded("optim/m/", parameter);
    Dim terms = kSgdThetaTerms;
    Flat magnitude = momentum ? Flat(momentum->cwiseAbs()) : Flat();
    if (!momentum && one_.training.momentum == 0) {
      // Without momentum the buffer is the gradient of this step, and need not exist.
      const auto gradient = clipped_gradient(parameter);
      if (!gradient) return std::nullopt;
      const Flat none = Flat::Zero(1, theta.size());
      momentum = sgd_momentum<double>({theta, none}, *gradient, sgd());
      magnitude = sgd_momentum<double>({theta.cwiseAbs(), none}, gradient->cwiseAbs(), sgd());
      terms += kSgdMomentumTerms;
    }
    if (!momentum) return std::nullopt;
    return flat_tap(sgd_theta(theta, *momentum, sgd()), sgd_theta<double>(theta.cwiseAbs(), -magnitude, sgd()), terms);
  }

  std::optional<ExpectedTap> rounded_master(std::string_view parameter) const {
    const auto master = recorded("optim/master/", parameter);
    if (!master) return std::nullopt;
    const Flat copy = low_precision_copy(master->cast<float>(), one_.problem.dtype).cast<double>();
    return flat_tap(copy, copy.cwiseAbs(), 1);
  }

  ExpectedTap step_counts() const {
    const std::array<double, 3> counts = {static_cast<double>(step_ + 1), static_cast<double>(step_ + 1), static_cast<double>(step_ + 1)};
    const auto tensor = base::tensor_from_doubles(base::DType::kF64, {3}, counts);
    return {tensor, tensor, 0, {1, 1, 1}};
  }

  const cases::Case& one_;
  std::span<const trace::Trace> batches_;
  Dim rank_;
  Dim step_;
};

// Over every shard of every parameter once, as the lowest rank that holds it recorded it.
std::optional<ExpectedTap> global_norm(const cases::Case& one, const trace::Trace& observed) {
  GlobalNorm norm;
  Dim num_squares = 0;
  for (const std::string_view parameter : kStepParameters) {
    const std::string tap = "optim/grad/" + std::string(parameter);
    for (Dim rank = 0; rank < one.world_size(); ++rank) {
      if (trace::replica_group(one.problem, tap, rank).front() != rank) continue;
      if (rank >= static_cast<Dim>(observed.ranks.size())) return std::nullopt;
      const base::HostTensor* shard = observed.ranks[static_cast<std::size_t>(rank)].tensor(tap);
      if (shard == nullptr || shard->shape() != *trace::declared_shape(one.problem, tap, rank, {})) return std::nullopt;
      const std::vector<double> values = shard->to_doubles();
      norm.add<double>(Eigen::Map<const Flat>(values.data(), 1, static_cast<Dim>(values.size())));
      num_squares += shard->numel() + 1;   // its sum is a summand of the whole
    }
  }
  const std::array<double, 1> value = {norm.value()};
  const auto tensor = base::tensor_from_doubles(base::DType::kF64, {1}, value);
  return ExpectedTap{tensor, tensor, num_squares, {1}};
}

}  // namespace

void expect_step(const cases::Case& one, std::span<const trace::Trace> batches, trace::Expected& expected) {
  if (batches.empty() || !one.ends_step(static_cast<Dim>(batches.size()) - 1)) return;
  const auto norm = global_norm(one, batches.back());
  for (std::size_t r = 0; r < expected.ranks.size(); ++r) {
    RankStep(one, batches, static_cast<Dim>(r)).write(expected.ranks[r]);
    if (norm) expected.ranks[r].taps.emplace("optim/norm_1", *norm);
  }
}

}  // namespace moecheck::reference
