// euler_identity on a small layer that is computed here in plain loops, forward and backward, over several layouts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>

#include "harness/check/registry.h"
#include "harness/trace/layout.h"

namespace moecheck::check {
namespace {

using record::CheckState;
using testing::AllOf;
using testing::HasSubstr;
using Values = std::vector<double>;

constexpr Dim kE = 4, kK = 2, kD = 6, kF = 4;
constexpr Dim kIdle = kE - 1;

// Reproducible numbers in -1..1.
double noise(Dim i, double phase) { return std::sin(12.9898 * static_cast<double>(i + 1) + phase); }

// The whole of one routed row, F columns.
struct Row {
  Dim token, slot, expert;
  double score;
  Values x, g, u, a, dy, d_out, d_act, d_g, d_u;
};

class TinyLayer {
 public:
  explicit TinyLayer(const std::string& mesh, base::DType dtype = base::DType::kF32) {
    one.problem.model = {.family = "tiny", .num_experts = kE, .top_k = kK, .d_model = kD, .d_ff = kF, .activation = {}, .names = {}};
    one.problem.mesh = model::Mesh::parse(mesh).value();
    one.problem.dtype = dtype;
    one.problem.tokens_per_rank = {5, 3};
    one.phases = {"load", "forward", "backward"};
    for (Dim i = 0; i < kE * 2 * kF * kD; ++i) gate_up_.push_back(rounded(noise(i, 0.1)));
    for (Dim i = 0; i < kE * kD * kF; ++i) down_.push_back(rounded(noise(i, 0.7)));
    for (Dim t = 0; t < one.problem.total_tokens(); ++t)
      for (Dim k = 0; k < kK; ++k) rows_.push_back(computed(t, k));
    for (Dim rank = 0; rank < one.world_size(); ++rank) {
      observed.ranks.emplace_back().rank = rank;
      expected.ranks.emplace_back();
      show_rows(rank);
    }
    for (Dim rank = 0; rank < one.world_size(); ++rank) show_sums(rank);
  }

  base::HostTensor& tensor(Dim rank, const std::string& tap) { return observed.ranks.at(static_cast<std::size_t>(rank)).taps.at(tap).tensor; }
  // Of one expert on all ranks: dim 0 is the expert.
  void scale(const std::string& tap, Dim expert, double factor) {
    for (Dim rank = 0; rank < one.world_size(); ++rank) {
      const auto held = trace::declared_indices(one.problem, tap, rank, 0);
      base::HostTensor& all = tensor(rank, tap);
      const Dim size = all.numel() / all.dim(0);
      for (Dim i = 0; i < all.numel(); ++i)
        if (held[static_cast<std::size_t>(i / size)] == expert) all.set(i, factor * all.at(i));
    }
  }
  CheckOutcome judged() const { return find_check("euler_identity")->run({.one = one, .expected = expected, .observed = observed}); }

  cases::Case one;
  trace::Trace observed;
  trace::Expected expected;

 private:
  double rounded(double value) const { return base::round_to(one.problem.dtype, value); }
  double gate_up(Dim e, Dim row, Dim d) const { return gate_up_[static_cast<std::size_t>((e * 2 * kF + row) * kD + d)]; }
  double down(Dim e, Dim d, Dim f) const { return down_[static_cast<std::size_t>((e * kD + d) * kF + f)]; }

  Row computed(Dim t, Dim k) const {
    Row r{t, k, (t + k) % kIdle, rounded(0.3 + 0.1 * static_cast<double>(k) + 0.01 * static_cast<double>(t)), {}, {}, {}, {}, {}, {}, {}, {}, {}};
    for (Dim d = 0; d < kD; ++d) {
      r.x.push_back(rounded(noise(t * kD + d, 2.1)));
      r.dy.push_back(rounded(noise(t * kD + d, 4.2)));
      r.d_out.push_back(rounded(r.score * r.dy.back()));
    }
    for (Dim f = 0; f < kF; ++f) {
      double g = 0, u = 0, d_act = 0;
      for (Dim d = 0; d < kD; ++d) {
        const auto i = static_cast<std::size_t>(d);
        g += gate_up(r.expert, f, d) * r.x[i];
        u += gate_up(r.expert, kF + f, d) * r.x[i];
        d_act += down(r.expert, d, f) * r.d_out[i];
      }
      r.g.push_back(rounded(g));
      r.u.push_back(rounded(u));
      r.d_act.push_back(rounded(d_act));
      const double sigma = 1 / (1 + std::exp(-r.g.back()));
      r.a.push_back(rounded(r.g.back() * sigma * r.u.back()));
      r.d_u.push_back(rounded(r.d_act.back() * r.g.back() * sigma));
      r.d_g.push_back(rounded(r.d_act.back() * r.u.back() * sigma * (1 + r.g.back() * (1 - sigma))));
    }
    return r;
  }

  // What is shown is what is expected, up to the rounding to the dtype; summands are not smaller than the sum.
  void show(Dim rank, const std::string& tap, const base::Shape& shape, const Values& values, Dim terms) {
    const auto at = static_cast<std::size_t>(rank);
    Values sizes = values;
    for (double& size : sizes) size = std::fabs(size);
    observed.ranks[at].taps[tap] = {base::tensor_from_doubles(one.problem.dtype, shape, values), {}, shape};
    expected.ranks[at].taps[tap] = {base::tensor_from_doubles(base::DType::kF64, shape, values),
                                    base::tensor_from_doubles(base::DType::kF64, shape, sizes), terms};
  }

  void show_rows(Dim rank) {
    const auto local = trace::local_experts(one.problem, rank);
    const auto columns = model::held_indices(trace::compute_cuts(one.problem, "param/experts/down_EDF"), kF, 2, one.problem.mesh, rank);
    const Dim first = one.problem.first_token(rank), last = first + one.problem.num_tokens(rank);
    std::vector<std::int64_t> keys;
    std::map<std::string, Values> taps;
    const auto take = [&](const std::string& tap, const Values& whole) {
      for (const Dim f : columns) taps[tap].push_back(whole[static_cast<std::size_t>(f)]);
    };
    for (const Row& r : rows_) {
      if (r.token < first || r.token >= last || !local.has(r.expert)) continue;
      keys.insert(keys.end(), {r.token, r.slot, r.expert});
      take("experts/gate_up_RG", r.g);
      take("experts/gate_up_RG", r.u);
      take("experts/act_RF", r.a);
      take("grad/act_RF", r.d_act);
      take("grad/gate_up_RG", r.d_g);
      take("grad/gate_up_RG", r.d_u);
      for (Dim d = 0; d < kD; ++d) {
        double out = 0;
        for (const Dim f : columns) out += down(r.expert, d, f) * r.a[static_cast<std::size_t>(f)];
        taps["experts/out_RD"].push_back(rounded(out));
        taps["grad/out_RD"].push_back(r.d_out[static_cast<std::size_t>(d)]);
        d_score_[{r.token, r.slot}] += rounded(out) * r.dy[static_cast<std::size_t>(d)];
      }
    }
    const auto num_rows = static_cast<Dim>(keys.size()) / 3, f = static_cast<Dim>(columns.size());
    observed.ranks[static_cast<std::size_t>(rank)].taps["dispatch/rows_R3"] = {base::tensor_from_ints({num_rows, 3}, keys), {}, {num_rows, 3}};
    show(rank, "experts/gate_up_RG", {num_rows, 2 * f}, taps["experts/gate_up_RG"], kD);
    show(rank, "experts/act_RF", {num_rows, f}, taps["experts/act_RF"], 1);
    show(rank, "experts/out_RD", {num_rows, kD}, taps["experts/out_RD"], f);
    show(rank, "grad/out_RD", {num_rows, kD}, taps["grad/out_RD"], 1);
    show(rank, "grad/act_RF", {num_rows, f}, taps["grad/act_RF"], kD);
    show(rank, "grad/gate_up_RG", {num_rows, 2 * f}, taps["grad/gate_up_RG"], 1);
  }

  void show_sums(Dim rank) {
    Values d_gate_up(gate_up_.size(), 0.0), d_down(down_.size(), 0.0), scores, d_scores;
    std::vector<std::int64_t> ids;
    const Dim first = one.problem.first_token(rank), last = first + one.problem.num_tokens(rank);
    for (const Row& r : rows_) {
      for (Dim f = 0; f < kF; ++f)
        for (Dim d = 0; d < kD; ++d) {
          const auto i = static_cast<std::size_t>(d), j = static_cast<std::size_t>(f);
          d_gate_up[static_cast<std::size_t>((r.expert * 2 * kF + f) * kD + d)] += r.d_g[j] * r.x[i];
          d_gate_up[static_cast<std::size_t>((r.expert * 2 * kF + kF + f) * kD + d)] += r.d_u[j] * r.x[i];
          d_down[static_cast<std::size_t>((r.expert * kD + d) * kF + f)] += r.d_out[i] * r.a[j];
        }
      if (r.token < first || r.token >= last) continue;
      ids.push_back(r.expert);
      scores.push_back(r.score);
      d_scores.push_back(d_score_[{r.token, r.slot}]);
    }
    show_part(rank, "param/experts/gate_up_EGD", gate_up_);
    show_part(rank, "param/experts/down_EDF", down_);
    show_part(rank, "grad/experts/gate_up_EGD", d_gate_up);
    show_part(rank, "grad/experts/down_EDF", d_down);
    const base::Shape shape = {last - first, kK};
    observed.ranks[static_cast<std::size_t>(rank)].taps["router/ids_TK"] = {base::tensor_from_ints(shape, ids), {}, shape};
    show(rank, "router/scores_TK", shape, scores, kE);
    show(rank, "grad/scores_TK", shape, d_scores, kD);
  }

  void show_part(Dim rank, const std::string& tap, const Values& whole) {
    const base::Shape global = trace::global_param_shape(one.problem.model, tap);
    Values part;
    for (const Dim e : trace::declared_indices(one.problem, tap, rank, 0))
      for (const Dim row : trace::declared_indices(one.problem, tap, rank, 1))
        for (const Dim column : trace::declared_indices(one.problem, tap, rank, 2))
          part.push_back(whole[static_cast<std::size_t>((e * global[1] + row) * global[2] + column)]);
    show(rank, tap, model::held_shape(trace::declared_cuts(one.problem, tap), global, one.problem.mesh, rank), part, one.problem.total_tokens());
  }

  Values gate_up_, down_;
  std::vector<Row> rows_;
  std::map<std::pair<Dim, Dim>, double> d_score_;
};

std::string messages(const CheckOutcome& outcome) {
  std::string all = outcome.note;
  for (const auto& finding : outcome.findings) all += "\n" + finding.stage + ": " + finding.message;
  return all;
}

TEST(EulerIdentity, HoldsForASoundLayerInEveryLayout) {
  for (const std::string mesh : {"none", "ep=2", "tp=2", "ep=2,tp=2", "dp=2,ep=2", "fsdp=2", "fsdp=2,tp=2", "fsdp=2,ep=2"})
    for (const base::DType dtype : {base::DType::kF32, base::DType::kBF16}) {
      const CheckOutcome outcome = TinyLayer(mesh, dtype).judged();
      EXPECT_EQ(outcome.state, CheckState::kPass) << mesh << " " << base::knob_name(dtype) << messages(outcome);
      EXPECT_EQ(outcome.compared, 2 * (kE - 1)) << mesh;   // the idle expert shows nothing
    }
}

TEST(EulerIdentity, NamesTheParameterWhoseGradientHasAGain) {
  struct Damage {
    std::string tap, side;
  };
  for (const std::string mesh : {"ep=2", "tp=2", "fsdp=2,ep=2"})
    for (const base::DType dtype : {base::DType::kF32, base::DType::kBF16})
      for (const Damage& damage : {Damage{"grad/experts/down_EDF", "<W_down, dW_down>"}, Damage{"grad/experts/gate_up_EGD", "<W_up, dW_up>"}}) {
        TinyLayer layer(mesh, dtype);
        layer.scale(damage.tap, 2, 2);
        const CheckOutcome outcome = layer.judged();
        ASSERT_EQ(outcome.findings.size(), 1U) << mesh << messages(outcome);
        EXPECT_EQ(outcome.findings[0].stage, damage.tap);
        EXPECT_EQ(outcome.findings[0].expert, 2);
        EXPECT_EQ(outcome.findings[0].rank, mesh == "ep=2" ? 1 : mesh == "tp=2" ? 0 : 1);
        EXPECT_THAT(outcome.findings[0].message, HasSubstr(damage.side + " is the odd one"));
        EXPECT_THAT(outcome.findings[0].hypothesis, HasSubstr("2 times"));
        EXPECT_GT(*outcome.findings[0].used, 1);
      }
}

TEST(EulerIdentity, NamesTheGradientOfTheScores) {
  TinyLayer layer("ep=2");
  for (Dim rank = 0; rank < 2; ++rank) layer.tensor(rank, "grad/scores_TK").set(0, 0.0);   // token 0, slot 0: expert 0
  const CheckOutcome outcome = layer.judged();
  ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);
  EXPECT_EQ(outcome.findings[0].stage, "grad/scores_TK");
  EXPECT_EQ(outcome.findings[0].expert, 0);
  EXPECT_FALSE(outcome.findings[0].rank.has_value());
  EXPECT_THAT(outcome.findings[0].message, HasSubstr("sum of s ds is the odd one"));
}

TEST(EulerIdentity, SeesTheGradientOfAnIdleExpert) {
  TinyLayer layer("ep=2");
  layer.tensor(1, "grad/experts/down_EDF").set(kD * kF + 1, 0.25);
  const CheckOutcome outcome = layer.judged();
  ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);
  EXPECT_EQ(outcome.findings[0].expert, kIdle);
}

TEST(EulerIdentity, NeverLetsANaNPass) {
  TinyLayer layer("ep=2");
  layer.tensor(0, "grad/experts/gate_up_EGD").set(kF * kD + 1, NAN);   // of expert 0's up part
  const CheckOutcome outcome = layer.judged();
  ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);
  EXPECT_EQ(outcome.findings[0].expert, 0);
  EXPECT_TRUE(std::isnan(*outcome.findings[0].used));
}

TEST(EulerIdentity, LeavesScoresOutWhereTheyMeetTheRowBeforeTheExpert) {
  TinyLayer layer("ep=2");
  layer.one.problem.score_position = model::ScorePosition::kBeforeExperts;
  for (Dim rank = 0; rank < 2; ++rank) layer.tensor(rank, "grad/scores_TK").set(0, 7.0);
  EXPECT_EQ(layer.judged().state, CheckState::kPass);
  layer.scale("grad/experts/down_EDF", 1, 0.5);
  const CheckOutcome outcome = layer.judged();
  ASSERT_EQ(outcome.findings.size(), 1U);
  EXPECT_THAT(outcome.findings[0].message, AllOf(HasSubstr("cannot be told"), testing::Not(HasSubstr("s ds"))));
}

TEST(EulerIdentity, DoesNotJudgeWhereTheReferenceHasNoBound) {
  TinyLayer layer("ep=2");
  for (trace::ExpectedRank& rank : layer.expected.ranks) rank.taps.erase("grad/out_RD");
  for (Dim rank = 0; rank < 2; ++rank) layer.tensor(rank, "grad/scores_TK").set(0, 7.0);
  const CheckOutcome outcome = layer.judged();
  EXPECT_EQ(outcome.state, CheckState::kPass) << messages(outcome);
  EXPECT_EQ(outcome.compared, kE - 1);   // down and up only
  EXPECT_THAT(outcome.note, HasSubstr("expert 0 not judged in full"));
}

TEST(EulerIdentity, IsUnobservedWithoutRows) {
  TinyLayer layer("ep=2");
  for (trace::RankTrace& rank : layer.observed.ranks) rank.taps.erase("grad/act_RF");
  EXPECT_EQ(layer.judged().state, CheckState::kUnobserved);
  layer.one.phases = {"load", "forward"};
  EXPECT_EQ(layer.judged().state, CheckState::kNotApplicable);
}

}  // namespace
}  // namespace moecheck::check
