// optimizer on a step of sgd with momentum that is taken here, in plain loops, on every rank.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "harness/check/registry.h"
#include "harness/trace/layout.h"

namespace moecheck::check {
namespace {

using record::CheckState;
using testing::HasSubstr;
using Values = std::vector<double>;

const std::string kRouter = "router/w_ED";
const std::string kGateUp = "experts/gate_up_EGD";
const std::string kDown = "experts/down_EDF";

double fp32(double value) { return base::round_to(base::DType::kF32, value); }

// Expected values are what was taken; damage is done to what is observed.
class TakenStep {
 public:
  explicit TakenStep(const std::string& mesh, base::DType dtype = base::DType::kBF16) {
    one.problem.model = {.family = "tiny", .num_experts = 4, .top_k = 2, .d_model = 6, .d_ff = 4, .activation = {}, .names = {}};
    one.problem.mesh = model::Mesh::parse(mesh).value();
    one.problem.dtype = dtype;
    one.phases = {"load", "forward", "backward", "step"};
    one.training.learning_rate = 0.125;
    one.training.momentum = 0.5;
    for (Dim rank = 0; rank < one.world_size(); ++rank) {
      observed.ranks.emplace_back().rank = rank;
      expected.ranks.emplace_back();
      for (const std::string& parameter : {kRouter, kGateUp, kDown}) take(rank, parameter);
    }
    double squares = 0;
    for (Dim rank = 0; rank < one.world_size(); ++rank)
      for (const std::string& parameter : {kRouter, kGateUp, kDown})
        if (trace::replica_group(one.problem, "param/" + parameter, rank).front() == rank) squares += squares_of(rank, parameter);
    norm = fp32(std::sqrt(squares));
    for (Dim rank = 0; rank < one.world_size(); ++rank) {
      show(rank, "optim/norm_1", base::DType::kF32, {1}, {norm});
      show(rank, "optim/clip_1", base::DType::kF32, {1}, {1});
    }
  }

  base::HostTensor& tensor(Dim rank, const std::string& tap) { return observed.ranks.at(static_cast<std::size_t>(rank)).taps.at(tap).tensor; }
  double squares_of(Dim rank, const std::string& parameter) {
    double squares = 0;
    for (const double g : tensor(rank, "optim/grad/" + parameter).to_doubles()) squares += g * g;
    return squares;
  }
  void forget(Dim rank, const std::string& parameter) {
    std::erase_if(observed.ranks.at(static_cast<std::size_t>(rank)).taps,
                  [&](const auto& tap) { return tap.first.starts_with("optim/") && tap.first.ends_with(parameter); });
  }
  CheckOutcome judged() const {
    return find_check("optimizer")->run({.one = one, .expected = expected, .observed = observed, .batch = batch, .earlier = earlier});
  }

  cases::Case one;
  trace::Trace observed;
  trace::Expected expected;
  std::vector<trace::Trace> earlier;
  Dim batch = 0;
  double norm = 0;

 private:
  void show(Dim rank, const std::string& tap, base::DType dtype, const base::Shape& shape, const Values& values) {
    const auto at = static_cast<std::size_t>(rank);
    observed.ranks[at].taps[tap] = {base::tensor_from_doubles(dtype, shape, values), {}, shape};
    const auto wide = base::tensor_from_doubles(base::DType::kF64, shape, values);
    Values sizes = values;
    for (double& size : sizes) size = std::fabs(size);
    if (tap.starts_with("optim/")) expected.ranks[at].taps[tap] = {wide, base::tensor_from_doubles(base::DType::kF64, shape, sizes)};
  }

  void take(Dim rank, const std::string& parameter) {
    const base::Shape global = trace::global_param_shape(one.problem.model, "param/" + parameter);
    const base::Shape shape = model::held_shape(trace::declared_cuts(one.problem, "param/" + parameter), global, one.problem.mesh, rank);
    const auto first = trace::declared_indices(one.problem, "param/" + parameter, rank, 0).front();
    Values theta, gradient, master, copy;
    for (Dim i = 0; i < base::num_elements(shape); ++i) {
      theta.push_back(base::round_to(one.problem.dtype, std::sin(static_cast<double>(i + 100 * first) + static_cast<double>(parameter.size()))));
      gradient.push_back(fp32(std::cos(static_cast<double>(3 * i + 7 * first))));
      master.push_back(fp32(theta.back() - one.training.learning_rate * gradient.back()));
      copy.push_back(base::round_to(one.problem.dtype, master.back()));
    }
    show(rank, "param/" + parameter, one.problem.dtype, shape, theta);
    for (const std::string kind : {"grad/", "m/"}) show(rank, "optim/" + kind + parameter, base::DType::kF32, shape, gradient);
    show(rank, "optim/master/" + parameter, base::DType::kF32, shape, master);
    show(rank, "optim/param/" + parameter, one.problem.dtype, shape, copy);
  }
};

std::string messages(const CheckOutcome& outcome) {
  std::string all = outcome.note;
  for (const auto& finding : outcome.findings) all += "\n" + finding.stage + ": " + finding.message + " (" + finding.hypothesis + ")";
  return all;
}

record::Finding only(const CheckOutcome& outcome) {
  EXPECT_EQ(outcome.findings.size(), 1U) << messages(outcome);
  return outcome.findings.empty() ? record::Finding{} : outcome.findings[0];
}

TEST(Optimizer, IsSilentOnAStepThatIsRight) {
  for (const std::string mesh : {"none", "ep=2", "tp=2", "fsdp=2,ep=2"})
    for (const base::DType dtype : {base::DType::kF32, base::DType::kBF16}) {
      const CheckOutcome outcome = TakenStep(mesh, dtype).judged();
      EXPECT_EQ(outcome.state, CheckState::kPass) << mesh << messages(outcome);
      EXPECT_GT(outcome.compared, 100);
    }
}

// The optimizer was made from a list that the experts are not in.
TEST(Optimizer, NamesTheParameterThatNobodyOwns) {
  TakenStep step("ep=2");
  for (Dim rank = 0; rank < 2; ++rank) step.forget(rank, kDown);
  const CheckOutcome outcome = step.judged();
  ASSERT_EQ(outcome.findings.size(), 2U) << messages(outcome);
  EXPECT_EQ(outcome.findings[1].tensor, kDown);
  EXPECT_EQ(outcome.findings[1].rank, 1);
  EXPECT_THAT(outcome.findings[1].message, HasSubstr("no optimizer state: the parameter is not owned by the optimizer"));
}

TEST(Optimizer, NamesTheRankThatDoesNotOwnAParameter) {
  TakenStep step("ep=2");
  step.observed.ranks[1].taps.erase("optim/m/" + kGateUp);
  const record::Finding finding = only(step.judged());
  EXPECT_EQ(finding.rank, 1);
  EXPECT_EQ(finding.stage, "optim/m/" + kGateUp);
}

TEST(Optimizer, DoesNotAskForAKindOfStateThatTheSubjectNeverShows) {
  TakenStep step("ep=2");
  for (trace::RankTrace& rank : step.observed.ranks) std::erase_if(rank.taps, [](const auto& tap) { return tap.first.starts_with("optim/master/"); });
  EXPECT_EQ(step.judged().state, CheckState::kPass) << messages(step.judged());
}

TEST(Optimizer, NamesTheExpertWhoseGradientHasAGain) {
  TakenStep step("ep=2");
  base::HostTensor& gradient = step.tensor(1, "optim/grad/" + kDown);
  for (Dim i = gradient.numel() / 2; i < gradient.numel(); ++i) gradient.set(i, 2 * gradient.at(i));
  const record::Finding finding = only(step.judged());
  EXPECT_EQ(finding.stage, "optim/grad/" + kDown);
  EXPECT_EQ(finding.rank, 1);
  EXPECT_EQ(finding.expert, 3);
  EXPECT_THAT(finding.hypothesis, HasSubstr("2 times the expected value"));
}

TEST(Optimizer, TellsAnAveragedGradientFromASum) {
  TakenStep step("ep=2");
  step.one.training.microbatches = 3;
  step.batch = 2;
  base::HostTensor& gradient = step.tensor(0, "optim/grad/" + kRouter);
  for (Dim i = 0; i < gradient.numel(); ++i) gradient.set(i, gradient.at(i) / 3);
  EXPECT_EQ(only(step.judged()).hypothesis, "the microbatches are averaged, declared summed");
}

TEST(Optimizer, SaysWhatDidNotMove) {
  TakenStep step("ep=2", base::DType::kF32);
  step.tensor(1, "optim/master/" + kDown) = step.tensor(1, "param/" + kDown);
  step.tensor(1, "optim/param/" + kDown) = step.tensor(1, "param/" + kDown);
  const record::Finding finding = only(step.judged());
  EXPECT_EQ(finding.stage, "optim/master/" + kDown);
  EXPECT_EQ(finding.rank, 1);
  EXPECT_EQ(finding.hypothesis, "experts/down_EDF did not move, though its update is not zero");
}

TEST(Optimizer, TakesTheMasterOfTheStepBefore) {
  TakenStep step("ep=2", base::DType::kF32);
  step.one.training.steps = 2;
  step.batch = 1;
  step.earlier.push_back(step.observed);
  for (Dim rank = 0; rank < 2; ++rank)
    for (const std::string& parameter : {kRouter, kGateUp, kDown}) {
      // The same values again, from a state that differs.
      base::HostTensor& before = step.earlier[0].ranks[static_cast<std::size_t>(rank)].taps.at("optim/master/" + parameter).tensor;
      before = base::tensor_from_doubles(base::DType::kF32, before.shape(), Values(static_cast<std::size_t>(before.numel()), 0.75));
    }
  step.tensor(0, "optim/master/" + kRouter) = step.earlier[0].ranks[0].taps.at("optim/master/" + kRouter).tensor;
  step.tensor(0, "optim/param/" + kRouter) = step.tensor(0, "optim/master/" + kRouter);
  EXPECT_THAT(only(step.judged()).hypothesis, HasSubstr("router/w_ED did not move"));
}

TEST(Optimizer, SeesWeightsThatAreNotRefreshedFromTheMaster) {
  TakenStep step("ep=2");
  step.tensor(0, "optim/param/" + kGateUp) = step.tensor(0, "param/" + kGateUp);
  const record::Finding finding = only(step.judged());
  EXPECT_EQ(finding.stage, "optim/param/" + kGateUp);
  EXPECT_THAT(finding.message, HasSubstr("are not the master rounded to bf16"));
  EXPECT_THAT(finding.hypothesis, HasSubstr("did not move: it is not refreshed from the master"));
}

TEST(Optimizer, SeesACopyThatIsRoundedTheWrongWay) {
  TakenStep step("ep=2");
  base::HostTensor& copy = step.tensor(1, "optim/param/" + kDown);
  copy.set(0, copy.at(0) * (1 + 0x1p-7));
  const record::Finding finding = only(step.judged());
  EXPECT_EQ(finding.expert, 2);
  EXPECT_THAT(finding.message, HasSubstr("1 of 48 elements"));
}

TEST(Optimizer, SaysWhatTheNormLacks) {
  TakenStep step("ep=2");
  const double router = step.squares_of(0, kRouter), experts = step.norm * step.norm - router;
  const double own = step.squares_of(1, kRouter) + step.squares_of(1, kGateUp) + step.squares_of(1, kDown);
  const std::pair<double, std::string> norms[] = {{router, "the norm lacks the experts"},
                                                  {experts, "the norm lacks the router"},
                                                  {own, "the norm is that of the rank's own shards"},
                                                  {experts + 2 * router, "the norm counts what is replicated once for each rank"}};
  for (const auto& [squares, words] : norms) {
    step.tensor(1, "optim/norm_1").set(0, std::sqrt(squares));
    const record::Finding finding = only(step.judged());
    EXPECT_EQ(finding.stage, "optim/norm_1");
    EXPECT_EQ(finding.rank, 1);
    EXPECT_EQ(finding.hypothesis, words);
    EXPECT_THAT(finding.message, HasSubstr("times the expected"));
  }
}

TEST(Optimizer, CountsTheSteps) {
  TakenStep step("ep=2");
  step.one.training.optimizer = cases::OptimizerKind::kAdamW;
  step.one.training.steps = 3;
  step.batch = 1;
  for (trace::RankTrace& rank : step.observed.ranks) {
    const std::vector<std::int64_t> counts = {2, 2, rank.rank == 0 ? 2 : 1};
    rank.taps["optim/steps_3"] = {base::tensor_from_ints({3}, counts), {}, {3}};
  }
  const record::Finding finding = only(step.judged());
  EXPECT_EQ(finding.rank, 1);
  EXPECT_EQ(finding.message, "experts/down_EDF has taken 1 steps, declared 2");
}

TEST(Optimizer, IsVacuousIfEveryGradientIsZero) {
  TakenStep step("ep=2");
  for (Dim rank = 0; rank < 2; ++rank)
    for (const std::string& parameter : {kRouter, kGateUp, kDown}) {
      const std::string tap = "optim/grad/" + parameter;
      step.tensor(rank, tap) = base::HostTensor(base::DType::kF32, step.tensor(rank, tap).shape());
      step.expected.ranks[static_cast<std::size_t>(rank)].taps[tap].value = base::HostTensor(base::DType::kF64, step.tensor(rank, tap).shape());
    }
  EXPECT_EQ(step.judged().state, CheckState::kVacuous);
}

TEST(Optimizer, AppliesOnlyWhereAStepEnds) {
  TakenStep step("ep=2");
  step.one.training.microbatches = 2;
  EXPECT_EQ(step.judged().state, CheckState::kNotApplicable);
  step.batch = 1;
  EXPECT_EQ(step.judged().state, CheckState::kPass);
  for (trace::RankTrace& rank : step.observed.ranks) std::erase_if(rank.taps, [](const auto& tap) { return tap.first.starts_with("optim/"); });
  EXPECT_EQ(step.judged().state, CheckState::kUnobserved);
}

}  // namespace
}  // namespace moecheck::check
