// A training of two steps of two microbatches, computed in fp32 on whole parameters and cut into the ranks' shards.
#include <cmath>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "reference/evaluate.h"
#include "reference/optimizer.h"
#include "tests/unit/reference/observed_fixture.h"

namespace moecheck::reference {
namespace {

using base::HostTensor;
using trace::Expected;
using trace::ExpectedTap;
using trace::Trace;

constexpr double kFloatRoundoff = 0x1p-24;
const std::vector<std::string> kParameters = {"router/w_ED", "experts/gate_up_EGD", "experts/down_EDF"};

struct Variant {
  std::string name;
  std::string mesh;
  cases::OptimizerKind optimizer;
  double clip_norm;
  double momentum;
  base::DType dtype;
};

std::vector<Variant> variants() {
  constexpr auto kSgd = cases::OptimizerKind::kSgd, kAdamW = cases::OptimizerKind::kAdamW;
  return {{"sgd", "ep=2", kSgd, 0, 0.9, base::DType::kF32},          {"sgd_clipped", "fsdp=2,ep=2", kSgd, 0.5, 0.9, base::DType::kBF16},
          {"sgd_plain", "none", kSgd, 0, 0, base::DType::kF32},      {"adamw", "dp=2,ep=2", kAdamW, 0, 0, base::DType::kBF16},
          {"adamw_clipped", "fsdp=2,tp=2", kAdamW, 0.5, 0, base::DType::kF32}, {"adamw_loose", "ep=2,tp=2", kAdamW, 1e6, 0, base::DType::kF32}};
}

cases::Case training_case(const Variant& variant) {
  cases::Case one = small_case(variant.mesh, std::vector<std::string>{"dp", "fsdp"});
  one.problem.dtype = variant.dtype;
  one.phases = {"load", "forward", "backward", "step"};
  one.training = {.steps = 2, .microbatches = 2, .optimizer = variant.optimizer, .learning_rate = 0.01, .momentum = variant.momentum,
                  .weight_decay = 0.1, .clip_norm = variant.clip_norm};
  return one;
}

// One parameter as a whole.
struct Parameter {
  base::Shape shape;
  SgdState<float> sgd;
  AdamWState<float> adamw;
  Matrix<float> sum;
};

class Training {
 public:
  explicit Training(const cases::Case& one) : one_(one), weights_(one.problem) {
    const model::ModelSpec& m = one.problem.model;
    const std::map<std::string, base::Shape> shapes = {{"router/w_ED", {m.num_experts, m.d_model}},
                                                       {"experts/gate_up_EGD", {m.num_experts, m.gate_up_rows(), m.d_model}},
                                                       {"experts/down_EDF", {m.num_experts, m.d_model, m.d_ff}}};
    for (const auto& [name, shape] : shapes) {
      const Matrix<float> theta = flat_weights(name);
      parameters_[name] = {shape, sgd_start(theta), adamw_start(theta), {}};
    }
  }

  std::vector<Trace> run() {
    std::vector<Trace> batches;
    for (Dim batch = 0; batch < one_.num_batches(); ++batch) {
      batches.push_back(sound_trace(one_, Exchange::kGather, batch, weights_));
      for (auto& [name, parameter] : parameters_) {
        show(batches.back(), "param/" + name, parameter.shape, low_precision_copy(theta_of(parameter), one_.problem.dtype));
        const Matrix<float> gradient = random_gradient(parameter.sgd.theta.size());
        show(batches.back(), "grad/" + name, parameter.shape, gradient);
        parameter.sum = batch % one_.training.microbatches == 0 ? gradient : Matrix<float>(parameter.sum + gradient);
      }
      if (one_.ends_step(batch)) step(batches.back());
    }
    return batches;
  }

 private:
  bool is_adamw() const { return one_.training.optimizer == cases::OptimizerKind::kAdamW; }
  const Matrix<float>& theta_of(const Parameter& parameter) const { return is_adamw() ? parameter.adamw.theta : parameter.sgd.theta; }

  Matrix<float> flat_weights(const std::string& name) {
    std::vector<float> values;
    const auto append = [&](const Matrix<double>& matrix) {
      for (Dim i = 0; i < matrix.size(); ++i) values.push_back(static_cast<float>(matrix.data()[i]));
    };
    if (name == "router/w_ED") append(weights_.w_router_ED);
    for (const auto& expert : weights_.experts) {
      if (name == "experts/gate_up_EGD") append(expert.w_gate_up_GD);
      if (name == "experts/down_EDF") append(expert.w_down_DF);
    }
    return Eigen::Map<const Matrix<float>>(values.data(), 1, static_cast<Dim>(values.size()));
  }

  Matrix<float> random_gradient(Dim size) {
    Matrix<float> gradient(1, size);
    std::normal_distribution<double> normal(0.0, 0.1);
    for (Dim i = 0; i < size; ++i) gradient(0, i) = static_cast<float>(base::round_to(one_.problem.dtype, normal(engine_)));
    return gradient;
  }

  void show(Trace& trace, const std::string& tap, const base::Shape& shape, const Matrix<float>& flat) const {
    HostTensor global(base::DType::kF32, shape);
    std::copy_n(flat.data(), flat.size(), global.mutable_view<float>().begin());
    for (trace::RankTrace& rank : trace.ranks) rank.taps.insert_or_assign(tap, whole(local_shard(one_.problem, tap, rank.rank, global)));
  }

  void step(Trace& trace) {
    float squares = 0;
    for (const auto& [name, parameter] : parameters_) squares += parameter.sum.squaredNorm();
    const float norm = std::sqrt(squares);
    const double limit = one_.training.clip_norm;
    const auto clip = static_cast<float>(limit > 0 ? clip_coefficient(static_cast<double>(norm), limit) : 1.0);
    for (trace::RankTrace& rank : trace.ranks) {
      rank.taps.insert_or_assign("optim/norm_1", whole(base::tensor_from_doubles(base::DType::kF32, {1}, {{static_cast<double>(norm)}})));
      rank.taps.insert_or_assign("optim/clip_1", whole(base::tensor_from_doubles(base::DType::kF32, {1}, {{static_cast<double>(clip)}})));
    }
    for (auto& [name, parameter] : parameters_) {
      show(trace, "optim/grad/" + name, parameter.shape, parameter.sum);
      const Matrix<float> gradient = clip * parameter.sum;
      if (is_adamw()) {
        parameter.adamw = adamw_step(parameter.adamw, gradient, {.learning_rate = 0.01, .weight_decay = 0.1});
        show(trace, "optim/m/" + name, parameter.shape, parameter.adamw.m);
        show(trace, "optim/v/" + name, parameter.shape, parameter.adamw.v);
      } else {
        parameter.sgd = sgd_step(parameter.sgd, gradient, {0.01, one_.training.momentum, 0.1});
        show(trace, "optim/m/" + name, parameter.shape, parameter.sgd.momentum);
      }
      show(trace, "optim/master/" + name, parameter.shape, theta_of(parameter));
      show(trace, "optim/param/" + name, parameter.shape, low_precision_copy(theta_of(parameter), one_.problem.dtype));
    }
    for (trace::RankTrace& rank : trace.ranks) {
      const auto steps = parameters_.at("router/w_ED").adamw.step;
      if (is_adamw()) rank.taps.insert_or_assign("optim/steps_3", whole(base::tensor_from_ints({3}, {{steps, steps, steps}})));
    }
    take_weights();
  }

  void take_weights() {
    const auto copy = [&](const std::string& name, Dim first, Matrix<double>& into) {
      const Matrix<float> all = low_precision_copy(theta_of(parameters_.at(name)), one_.problem.dtype);
      for (Dim i = 0; i < into.size(); ++i) into.data()[i] = static_cast<double>(all(0, first + i));
    };
    copy("router/w_ED", 0, weights_.w_router_ED);
    for (std::size_t e = 0; e < weights_.experts.size(); ++e) {
      auto& expert = weights_.experts[e];
      copy("experts/gate_up_EGD", static_cast<Dim>(e) * expert.w_gate_up_GD.size(), expert.w_gate_up_GD);
      copy("experts/down_EDF", static_cast<Dim>(e) * expert.w_down_DF.size(), expert.w_down_DF);
    }
  }

  const cases::Case& one_;
  StoredWeights<double> weights_;
  std::map<std::string, Parameter> parameters_;
  std::mt19937_64 engine_{3};
};

std::vector<std::string> step_taps(const cases::Case& one) {
  const bool is_adamw = one.training.optimizer == cases::OptimizerKind::kAdamW;
  std::vector<std::string> taps = {"optim/norm_1", "optim/clip_1"};
  if (is_adamw) taps.push_back("optim/steps_3");
  for (const std::string& parameter : kParameters)
    for (const char* state : {"grad", "m", "v", "master", "param"})
      if (is_adamw || std::string(state) != "v") taps.push_back("optim/" + std::string(state) + "/" + parameter);
  return taps;
}

// As the tolerances have it: as many roundings in fp32 as the tap says; a norm's are halved by the root.
double worst_used(const std::string& name, const ExpectedTap& tap, const HostTensor& observed) {
  EXPECT_EQ(tap.value.shape(), observed.shape()) << name;
  const bool is_exact = name == "optim/steps_3" || name.starts_with("optim/param/");
  const double terms = is_exact ? 0 : name == "optim/norm_1" ? static_cast<double>(tap.terms) / 2 + 8 : static_cast<double>(tap.terms);
  double worst = 0;
  for (Dim i = 0; i < observed.numel(); ++i) {
    const double error = std::fabs(tap.value.at(i) - observed.at(i));
    if (error != 0) worst = std::max(worst, error / (terms * kFloatRoundoff * tap.magnitude.at(i) + terms * 0x1p-150));
  }
  return worst;
}

class Step : public testing::TestWithParam<Variant> {
 protected:
  Step() : one_(training_case(GetParam())), batches_(Training(one_).run()) {}
  Expected expected_of(const std::vector<Trace>& batches, std::size_t count) const { return evaluate(one_, std::span(batches).first(count)); }

  cases::Case one_;
  std::vector<Trace> batches_;
};
INSTANTIATE_TEST_SUITE_P(Evaluate, Step, testing::ValuesIn(variants()), [](const auto& variant) { return variant.param.name; });

TEST_P(Step, OfASoundTrainingIsJudgedEqual) {
  for (const std::size_t count : {2U, 4U}) {
    const Expected expected = expected_of(batches_, count);
    for (std::size_t r = 0; r < expected.ranks.size(); ++r)
      for (const std::string& tap : step_taps(one_)) {
        ASSERT_TRUE(expected.ranks[r].taps.contains(tap)) << tap;
        EXPECT_LE(worst_used(tap, expected.ranks[r].taps.at(tap), *batches_[count - 1].ranks[r].tensor(tap)), 1) << tap << " of rank " << r;
      }
  }
}

TEST_P(Step, IsExpectedOfTheBatchThatEndsItOnly) {
  for (const std::size_t count : {1U, 3U}) {
    const Expected expected = expected_of(batches_, count);
    EXPECT_TRUE(expected.ranks[0].taps.contains("output/y_TD"));
    for (const auto& [name, tap] : expected.ranks[0].taps) EXPECT_FALSE(name.starts_with("optim/")) << name;
  }
}

TEST_P(Step, ShowsADamageToAnyOfItsTapsThere) {
  const std::size_t rank = batches_[0].ranks.size() - 1;
  for (const std::string& tap : step_taps(one_)) {
    std::vector<Trace> damaged = batches_;
    HostTensor& tensor = damaged[3].ranks[rank].taps.at(tap).tensor;
    std::vector<double> values = tensor.to_doubles();
    values.at(0) = values.at(0) * 1.01 + (tap == "optim/steps_3" ? 1 : 0);
    tensor = base::tensor_from_doubles(tensor.dtype(), tensor.shape(), values);
    EXPECT_GT(worst_used(tap, expected_of(damaged, 4).ranks[rank].taps.at(tap), tensor), 1) << tap;
  }
}

// Each stage is fed with what was recorded: the state before comes from the step before.
TEST_P(Step, TakesItsStateFromTheStepBefore) {
  std::vector<Trace> bent = batches_;
  for (trace::RankTrace& rank : bent[1].ranks)
    for (const char* state : {"m", "master"}) {
      HostTensor& tensor = rank.taps.at("optim/" + std::string(state) + "/router/w_ED").tensor;
      std::vector<double> values = tensor.to_doubles();
      for (double& value : values) value += 1;
      tensor = base::tensor_from_doubles(tensor.dtype(), tensor.shape(), values);
    }
  std::vector<std::string> changed;
  for (const std::string& tap : changed_taps(expected_of(batches_, 4), expected_of(bent, 4)))
    if (tap.starts_with("0 ")) changed.push_back(tap.substr(2));
  EXPECT_THAT(changed, testing::UnorderedElementsAre("optim/m/router/w_ED", "optim/master/router/w_ED"));
}

TEST_P(Step, IsFollowedByForwardsWithTheWeightsThatItLeft) {
  const Expected expected = expected_of(batches_, 3);
  for (std::size_t r = 0; r < expected.ranks.size(); ++r) {
    for (const char* stage : {"input/x_TD", "router/logits_TE", "experts/gate_up_RG", "experts/out_RD", "combine/partial_TD", "output/y_TD"})
      EXPECT_LE(used_by(expected.ranks[r].taps.at(stage), *batches_[2].ranks[r].tensor(stage)), 1) << stage << " of rank " << r;
    EXPECT_EQ(expected.ranks[r].end_to_end_TD.numel(), 0);
  }
  // With the weights of before they are not what is expected.
  const Trace stale = sound_trace(one_, Exchange::kGather, 2);
  std::vector<Trace> batches = batches_;
  for (std::size_t r = 0; r < stale.ranks.size(); ++r)
    batches[2].ranks[r].taps.at("router/logits_TE") = stale.ranks[r].taps.at("router/logits_TE");
  EXPECT_GT(used_by(expected_of(batches, 3).ranks[0].taps.at("router/logits_TE"), *stale.ranks[0].tensor("router/logits_TE")), 1);
}

TEST(StepWeights, ThatNobodyShowsLeaveTheirStagesUnjudged) {
  const cases::Case one = training_case(variants()[1]);   // fsdp=2, ep=2: each shard is on one rank
  std::vector<Trace> batches = Training(one).run();
  batches[2].ranks[3].taps.erase("param/experts/down_EDF");
  batches[2].ranks[0].taps.erase("param/router/w_ED");
  batches[2].ranks[1].taps.erase("param/router/w_ED");
  const Expected expected = evaluate(one, std::span(batches).first(3));
  EXPECT_FALSE(expected.ranks[0].taps.contains("router/logits_TE"));
  EXPECT_TRUE(expected.ranks[0].taps.contains("experts/out_RD"));
  EXPECT_FALSE(expected.ranks[1].taps.contains("experts/out_RD"));   // expert rows of the second half of the experts
  EXPECT_FALSE(expected.ranks[3].taps.contains("experts/out_RD"));
}

TEST(StepNorm, CountsEveryShardOnceAndReplicasNot) {
  for (const Variant& variant : {variants()[3], variants()[4]}) {
    const cases::Case one = training_case(variant);
    std::vector<Trace> batches = Training(one).run();
    const double before = evaluate(one, std::span(batches).first(2)).ranks[0].taps.at("optim/norm_1").value.at(0);
    const auto last = static_cast<std::size_t>(one.world_size() - 1);
    batches[1] = perturbed(batches[1], last, "optim/grad/experts/down_EDF");
    const double after = evaluate(one, std::span(batches).first(2)).ranks[0].taps.at("optim/norm_1").value.at(0);
    EXPECT_EQ(after != before, variant.mesh.starts_with("fsdp")) << variant.name;   // otherwise the last rank holds a copy
  }
}

TEST(StepNorm, IsUnknownWithoutAShard) {
  const cases::Case one = training_case(variants()[4]);
  std::vector<Trace> batches = Training(one).run();
  batches[1].ranks[2].taps.erase("optim/grad/experts/down_EDF");
  EXPECT_FALSE(evaluate(one, std::span(batches).first(2)).ranks[0].taps.contains("optim/norm_1"));
}

TEST(StepOfPlainSgd, NeedsNoMomentumBuffer) {
  const cases::Case one = training_case(variants()[2]);
  std::vector<Trace> batches = Training(one).run();
  for (const std::string& parameter : kParameters) batches[1].ranks[0].taps.erase("optim/m/" + parameter);
  const auto taps = evaluate(one, std::span(batches).first(2)).ranks[0].taps;
  const std::string master = "optim/master/experts/down_EDF";
  EXPECT_LE(worst_used(master, taps.at(master), *batches[1].ranks[0].tensor(master)), 1);
}

}  // namespace
}  // namespace moecheck::reference
