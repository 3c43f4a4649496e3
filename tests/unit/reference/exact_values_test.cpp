// Exact mode: no rounding anywhere, so integer arithmetic, float and double agree bit for bit.
#include <cmath>
#include <cstring>

#include <gtest/gtest.h>

#include "tests/unit/reference/layer_fixtures.h"

namespace moecheck::reference {
namespace {

constexpr double kGateUnit = 64;          // gates are 1 or 2 of it
constexpr double kBf16Integers = 256;     // whole numbers up to here have 8 significant bits

bool is_bf16(double value) { return base::round_to(base::DType::kBF16, value) == value; }

std::vector<std::int64_t> integers(const float* from, Dim size) {
  std::vector<std::int64_t> result;
  for (Dim i = 0; i < size; ++i) result.push_back(static_cast<std::int64_t>(from[i]));
  return result;
}

struct IntegerSum {
  std::int64_t value = 0;
  std::int64_t magnitude = 0;  // sum of |terms|
};

IntegerSum dot(const std::vector<std::int64_t>& a, const std::vector<std::int64_t>& b) {
  IntegerSum sum;
  for (std::size_t i = 0; i < a.size(); ++i) {
    sum.value += a[i] * b[i];
    sum.magnitude += std::abs(a[i] * b[i]);
  }
  return sum;
}

class ExactValues : public testing::TestWithParam<std::tuple<Dim, std::size_t, std::uint64_t>> {
 protected:
  model::Problem problem() const {
    model::Problem made = exact_problem(std::get<0>(GetParam()), std::get<2>(GetParam()));
    const RouterVariant variant = router_variants()[std::get<1>(GetParam())];
    made.model.score_function = variant.score_function;
    made.model.renormalise = variant.renormalise;
    return made;
  }

  // act = gate * up, since silu(gate) == gate; any partial sum of it is a whole number of gate units.
  static std::vector<std::int64_t> integer_act(const ExpertWeights<float>& w, const std::vector<std::int64_t>& x) {
    const Dim d_ff = w.w_gate_up_GD.rows() / 2;
    std::vector<std::int64_t> act;
    for (Dim f = 0; f < d_ff; ++f) {
      const auto gate = dot(x, integers(w.w_gate_up_GD.row(f).data(), w.w_gate_up_GD.cols()));
      const auto up = dot(x, integers(w.w_gate_up_GD.row(d_ff + f).data(), w.w_gate_up_GD.cols()));
      EXPECT_LE(static_cast<double>(up.magnitude), kBf16Integers);
      EXPECT_TRUE(is_bf16(static_cast<double>(gate.value * up.value)));
      act.push_back(gate.value * up.value);
    }
    return act;
  }
};

INSTANTIATE_TEST_SUITE_P(Exact, ExactValues,
                         testing::Combine(testing::Values<Dim>(1, 2, 4, 8), testing::Range<std::size_t>(0, 3),
                                          testing::Values<std::uint64_t>(1, 2, 3, 17)));

TEST_P(ExactValues, FloatDoubleAndIntegersAgreeBitForBit) {
  const model::Problem one = problem();
  const auto wide = generated_forward<double>(one);
  const auto narrow = generated_forward<float>(one);
  const StoredWeights<float> weights(one);
  const auto x_TD = tokens_of<float>(one);
  EXPECT_EQ(narrow.ids_TK, wide.ids_TK);
  EXPECT_TRUE((wide.scores_TK.array() == 1.0 / static_cast<double>(one.model.top_k)).all());
  bool has_nonzero = false;
  for (Dim t = 0; t < x_TD.rows(); ++t) {
    const auto x = integers(x_TD.row(t).data(), x_TD.cols());
    std::vector<IntegerSum> y(x.size());
    for (Dim k = 0; k < one.model.top_k; ++k) {
      const auto& expert = weights.experts[static_cast<std::size_t>(wide.ids_TK(t, k))];
      const auto act = integer_act(expert, x);
      for (std::size_t d = 0; d < y.size(); ++d) {
        const auto out = dot(act, integers(expert.w_down_DF.row(static_cast<Dim>(d)).data(), one.model.d_ff));
        EXPECT_LE(static_cast<double>(out.magnitude) / kGateUnit, kBf16Integers) << "some order of the down sum rounds in bf16";
        y[d].value += out.value;
        y[d].magnitude += std::abs(out.value);
      }
    }
    for (std::size_t d = 0; d < y.size(); ++d) {
      const auto column = static_cast<Dim>(d);
      EXPECT_LE(static_cast<double>(y[d].magnitude) / kGateUnit, kBf16Integers) << "some order of the combine sum rounds in bf16";
      EXPECT_EQ(wide.y_TD(t, column) * static_cast<double>(one.model.top_k), static_cast<double>(y[d].value));
      EXPECT_EQ(static_cast<double>(narrow.y_TD(t, column)), wide.y_TD(t, column));
      has_nonzero = has_nonzero || y[d].value != 0;
    }
  }
  EXPECT_TRUE(has_nonzero);
}

TEST_P(ExactValues, LogitsAndScoresAreRepresentableInBf16) {
  const auto layer = generated_forward<double>(problem());
  EXPECT_TRUE(layer.logits_TE.unaryExpr([](double v) { return is_bf16(v) ? 0.0 : 1.0; }).isZero(0));
  EXPECT_TRUE(layer.scores_TK.unaryExpr([](double v) { return is_bf16(v) ? 0.0 : 1.0; }).isZero(0));
}

TEST(ExactValues, AreTheSameBytesInBf16AndFp32) {
  model::Problem narrow = exact_problem(4, 3);
  model::Problem wide = narrow;
  narrow.dtype = base::DType::kBF16;
  EXPECT_TRUE(generated_forward<float>(narrow).y_TD == generated_forward<float>(wide).y_TD);
}

TEST(ExactValues, HoldForEveryRoutingPattern) {
  using model::Routing;
  for (const auto routing : {Routing::kOneExpert, Routing::kIdleExpert, Routing::kIdleRank, Routing::kKRanks, Routing::kOneRank, Routing::kZipf}) {
    model::Problem one = exact_problem(2, 9);
    one.routing = routing;
    one.mesh = model::Mesh::parse("ep=4").value();
    EXPECT_TRUE(generated_forward<float>(one).y_TD.cast<double>() == generated_forward<double>(one).y_TD);
  }
}

}  // namespace
}  // namespace moecheck::reference
