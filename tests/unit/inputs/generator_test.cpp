#include "harness/inputs/generator.h"

#include <cmath>

#include <gtest/gtest.h>

#include "harness/inputs/philox_stream.h"

namespace moecheck::inputs {
namespace {

using base::DType;
using model::Dim;
using model::Problem;
using model::Values;

Problem small_problem() {
  Problem problem;
  problem.model.num_experts = 7;
  problem.model.top_k = 3;
  problem.model.d_model = 37;
  problem.model.d_ff = 22;
  problem.tokens_per_rank = {5};
  problem.seed = 42;
  return problem;
}

// The documented formula of `normal`, element by element, over the scalar generator.
float documented_normal(std::uint64_t seed, const std::string& name, std::uint64_t index, double scale) {
  const std::uint64_t hash = base::fnv1a(name.data(), name.size());
  const std::uint64_t b = index / 2;
  const auto words = base::philox4x32_10({static_cast<std::uint32_t>(b), static_cast<std::uint32_t>(b >> 32), static_cast<std::uint32_t>(hash),
                                          static_cast<std::uint32_t>(hash >> 32)},
                                         {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
  double n = -131070;
  for (const std::uint32_t word : {words[index % 2 * 2], words[index % 2 * 2 + 1]}) n += (word & 0xFFFFU) + (word >> 16);
  return static_cast<float>(n * (scale / std::sqrt((0x1p32 - 1) / 3)));
}

TEST(Philox, GivesThePublishedKnownAnswers) {
  using Counter = base::PhiloxCounter;
  EXPECT_EQ(base::philox4x32_10({0, 0, 0, 0}, {0, 0}), (Counter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(base::philox4x32_10({~0U, ~0U, ~0U, ~0U}, {~0U, ~0U}), (Counter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(base::philox4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Counter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Fnv1a, GivesThePublishedKnownAnswers) {
  EXPECT_EQ(base::fnv1a("", 0), 0xcbf29ce484222325ULL);
  EXPECT_EQ(base::fnv1a("a", 1), 0xaf63dc4c8601ec8cULL);
  EXPECT_EQ(base::fnv1a("foobar", 6), 0x85944171f73967e8ULL);
}

TEST(FillNormal, VectorPathEqualsTheDocumentedFormula) {
  const Stream stream(0x123456789ABCDEFULL, "gate_up");
  for (const std::uint64_t first : {0ULL, 1ULL, 31ULL, 0x1FFFFFFFEULL, 0x1FFFFFFFFULL})  // the counter carries into its second word
    for (const std::size_t size : {1U, 2U, 31U, 32U, 33U, 64U, 101U}) {
      std::vector<float> out(size);
      fill_normal(stream, first, 0.7, out);
      for (std::size_t i = 0; i < size; ++i)
        ASSERT_EQ(out[i], documented_normal(stream.seed, "gate_up", first + i, 0.7)) << "first " << first << " element " << i;
    }
}

TEST(FillNormal, SlicesEqualTheWhole) {
  const Stream stream(3, "tokens");
  std::vector<float> whole(257);
  fill_normal(stream, 0, 1.0, whole);
  for (std::size_t first = 0; first < 70; ++first)
    for (std::size_t size : {0U, 1U, 5U, 32U, 64U, 77U, 187U}) {
      std::vector<float> slice(size);
      fill_normal(stream, first, 1.0, slice);
      EXPECT_TRUE(std::equal(slice.begin(), slice.end(), whole.begin() + static_cast<std::ptrdiff_t>(first))) << first << " " << size;
    }
}

TEST(FillNormal, LooksNormalWithMeanZeroAndTheGivenDeviation) {
  constexpr std::size_t kCount = 1 << 20;
  constexpr double kScale = 0.5;
  std::vector<float> values(kCount);
  fill_normal({11, "statistics"}, 0, kScale, values);
  double sum = 0, square = 0, fourth = 0, neighbour = 0;
  std::size_t within_one = 0;
  for (std::size_t i = 0; i < kCount; ++i) {
    const double z = static_cast<double>(values[i]) / kScale;
    sum += z;
    square += z * z;
    fourth += z * z * z * z;
    if (i > 0) neighbour += z * static_cast<double>(values[i - 1]) / kScale;
    within_one += std::fabs(z) < 1 ? 1 : 0;
    ASSERT_LE(std::fabs(z), 3.4642);  // sqrt(12)
  }
  const double n = kCount;
  const double five_deviations = 5 / std::sqrt(n);
  EXPECT_NEAR(sum / n, 0, five_deviations);
  EXPECT_NEAR(square / n, 1, five_deviations * std::sqrt(1.7));     // Var z^2 = kurtosis - 1
  EXPECT_NEAR(fourth / n, 2.7, five_deviations * 6);                // Irwin-Hall of 4: 3 - 6 / (5 * 4)
  EXPECT_NEAR(neighbour / n, 0, five_deviations);
  // From the Irwin-Hall distribution function; a normal one has 0.6827.
  constexpr double kWithinOne = 0.6693;
  EXPECT_NEAR(static_cast<double>(within_one) / n, kWithinOne, five_deviations * std::sqrt(kWithinOne * (1 - kWithinOne)));
}

TEST(Generator, RoundsEachNormalValueOnceToTheDtype) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    Problem problem = small_problem();
    problem.dtype = dtype;
    const Generator generator(problem);
    std::vector<float> row(37);
    generator.gate_up_row(6, 43, row);
    for (std::size_t d = 0; d < row.size(); ++d) {
      const float exact = documented_normal(42, "gate_up", (6 * 44 + 43) * 37 + d, 1.0 / std::sqrt(37.0));
      EXPECT_EQ(static_cast<double>(row[d]), base::round_to(dtype, static_cast<double>(exact)));
    }
  }
}

TEST(Generator, RowsEqualTheWholeTensors) {
  for (const Values values : {Values::kNormal, Values::kExact, Values::kProvenance})
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      Problem problem = small_problem();
      problem.dtype = dtype;
      problem.values = values;
      const Generator generator(problem);
      std::vector<float> row_D(37), row_F(22), block_GD(44 * 37), block_DF(37 * 22);
      generator.gate_up_rows(4, 0, block_GD);
      generator.down_rows(4, 0, block_DF);
      const auto gate_FD = generator.gate_FD(4), up_FD = generator.up_FD(4), down_DF = generator.down_DF(4);
      for (Dim r = 0; r < 44; ++r) {
        generator.gate_up_row(4, r, row_D);
        for (Dim d = 0; d < 37; ++d) {
          const float value = row_D[static_cast<std::size_t>(d)];
          ASSERT_EQ(value, block_GD[static_cast<std::size_t>(r * 37 + d)]);
          ASSERT_EQ(static_cast<double>(value), r < 22 ? gate_FD.at(r * 37 + d) : up_FD.at((r - 22) * 37 + d));
        }
      }
      for (Dim r = 0; r < 37; ++r) {
        generator.down_row(4, r, row_F);
        for (Dim f = 0; f < 22; ++f) {
          ASSERT_EQ(row_F[static_cast<std::size_t>(f)], block_DF[static_cast<std::size_t>(r * 22 + f)]);
          ASSERT_EQ(static_cast<double>(row_F[static_cast<std::size_t>(f)]), down_DF.at(r * 22 + f));
        }
      }
    }
}

TEST(Generator, MakesAnotherExpertTokenAndSeedAnotherValue) {
  Problem problem = small_problem();
  const Generator generator(problem);
  EXPECT_FALSE(base::same_bytes(generator.gate_FD(0), generator.gate_FD(1)));
  EXPECT_FALSE(base::same_bytes(generator.gate_FD(0), generator.up_FD(0)));
  std::vector<float> first(37), second(37);
  generator.token_row(0, first);
  generator.token_row(1, second);
  EXPECT_NE(first, second);
  problem.seed += 1ULL << 32;  // the high word of the seed counts
  EXPECT_FALSE(base::same_bytes(Generator(problem).down_DF(0), generator.down_DF(0)));
}

TEST(Generator, GivesDataParallelRanksTheirOwnSliceOfTheGlobalTokens) {
  for (const auto& tokens : {std::vector<Dim>{7, 5}, std::vector<Dim>{6, 0}, std::vector<Dim>{0, 3}}) {
    Problem problem = small_problem();
    problem.mesh = model::Mesh::parse("dp=2,ep=2").value();
    problem.tokens_per_rank = tokens;
    const Generator generator(problem);
    std::vector<float> row(37);
    Dim global = 0;
    for (const Dim rank : {0, 2}) {
      const auto x_TD = generator.tokens_TD(rank);
      ASSERT_EQ(x_TD.shape(), (base::Shape{tokens[static_cast<std::size_t>(rank / 2)], 37}));
      EXPECT_TRUE(base::same_bytes(x_TD, generator.tokens_TD(rank + 1)));  // replicated over ep
      for (Dim t = 0; t < x_TD.dim(0); ++t, ++global) {
        generator.token_row(global, row);
        for (Dim d = 0; d < 37; ++d) ASSERT_EQ(x_TD.at(t * 37 + d), static_cast<double>(row[static_cast<std::size_t>(d)]));
      }
    }
  }
}

TEST(Generator, GivesEachBatchTheTokensThatFollowThoseOfTheOneBefore) {
  Problem problem = small_problem();
  problem.mesh = model::Mesh::parse("dp=2,ep=2").value();
  problem.tokens_per_rank = {3, 4};
  const Generator generator(problem);
  std::vector<float> row(37);
  for (const Dim batch : {0, 1, 3})
    for (const Dim rank : {1, 2}) {
      const auto x_TD = generator.tokens_TD(rank, batch);
      const auto dy_TD = generator.output_grad_TD(rank, batch);
      ASSERT_EQ(x_TD.dim(0), rank == 1 ? 3 : 4);
      for (Dim t = 0; t < x_TD.dim(0); ++t) {
        const Dim global = batch * 7 + (rank == 1 ? 0 : 3) + t;
        generator.token_row(global, row);
        for (Dim d = 0; d < 37; ++d) ASSERT_EQ(x_TD.at(t * 37 + d), static_cast<double>(row[static_cast<std::size_t>(d)])) << global;
        generator.output_grad_row(global, row);
        for (Dim d = 0; d < 37; ++d) ASSERT_EQ(dy_TD.at(t * 37 + d), static_cast<double>(row[static_cast<std::size_t>(d)])) << global;
      }
    }
}

TEST(Generator, GivesRanksOfOneTokenShardTheSameTokens) {
  Problem problem = small_problem();
  problem.mesh = model::Mesh::parse("dp=2,ep=2").value();
  problem.tokens_per_rank = {3, 4};
  problem.token_dims = {"dp", "ep"};
  const Generator generator(problem);
  EXPECT_FALSE(base::same_bytes(generator.tokens_TD(0), generator.tokens_TD(1))) << "ep shards the tokens here";
  problem.token_dims = {"dp"};
  EXPECT_TRUE(base::same_bytes(Generator(problem).tokens_TD(0), Generator(problem).tokens_TD(1)));
}

TEST(Generator, ProvenanceNamesExpertsAndTokens) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    Problem problem = small_problem();
    problem.dtype = dtype;
    problem.values = Values::kProvenance;
    const Generator generator(problem);
    for (Dim e = 0; e < 256; ++e) {
      std::vector<float> gate(37), up(37), down(22), token(37);
      generator.gate_up_row(e, 0, gate);
      generator.gate_up_row(e, 22, up);
      generator.down_row(e, 5, down);
      EXPECT_EQ(gate, std::vector<float>(37, static_cast<float>(e + 1) / 1024));
      EXPECT_EQ(up, std::vector<float>(37, static_cast<float>(e + 1) / 2048));
      EXPECT_EQ(down, std::vector<float>(22, static_cast<float>(e + 1) / 512));
      generator.token_row(e, token);
      for (std::size_t d = 7; d < 37; ++d) EXPECT_EQ(token[d], static_cast<float>(e + 1) / 64);
    }
  }
}

std::uint64_t checksum(const std::vector<base::HostTensor>& tensors) {
  std::string bytes;
  for (const auto& tensor : tensors)
    bytes.append(reinterpret_cast<const char*>(tensor.bytes().data()), tensor.num_bytes());
  return base::fnv1a(bytes.data(), bytes.size());
}

// Whoever changes these numbers changes the meaning of every recorded seed.
TEST(Generator, NeverChangesItsBytesSilently) {
  const std::vector<std::tuple<Values, DType, std::uint64_t>> golden = {
      {Values::kNormal, DType::kF32, 0x4a45dfb11db6d5a4ULL},
      {Values::kNormal, DType::kBF16, 0x3532167df54a91efULL},
      {Values::kExact, DType::kF32, 0x16726b91bef9586eULL},
      {Values::kExact, DType::kBF16, 0x022305a6b52691c8ULL},
      {Values::kProvenance, DType::kF32, 0x95f48732dabaafafULL},
      {Values::kProvenance, DType::kBF16, 0x07fb9424cd5faf52ULL}};
  for (const auto& [values, dtype, expected] : golden) {
    Problem problem = small_problem();
    problem.values = values;
    problem.dtype = dtype;
    const Generator g(problem);
    EXPECT_EQ(checksum({g.router_ED(), g.gate_FD(0), g.up_FD(6), g.down_DF(3), g.attention_DD(), g.tokens_TD(0)}), expected)
        << "values " << static_cast<int>(values) << " " << base::knob_name(dtype);
  }
}

}  // namespace
}  // namespace moecheck::inputs
