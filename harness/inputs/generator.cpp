#include "harness/inputs/generator.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "harness/inputs/philox_stream.h"

namespace moecheck::inputs {
namespace {

using base::DType;
using base::HostTensor;
using model::Dim;
using model::Problem;
using model::Routing;
using model::Values;

// Natural logits have this standard deviation: probabilities are spread, neither flat nor one-hot.
constexpr double kLogitScale = 1.5;
// Outputs of order 1 from activations of order 0.5.
constexpr double kDownScale = 2.0;
// Designed routing: logit of the first choice, step to the next, and everyone else; see token_code().
constexpr double kDesignedGain = 2.0;
constexpr double kDesignedNoise = 0.1;
constexpr double kFirstCode = 2.0;
constexpr double kOtherCode = -1.0;
// One step is within reach of the router's noise; the one favourite must come first for every token.
constexpr double kFavouriteLead = 1.0;

constexpr float kExactRouter = 64.0F;
// exp(-64) vanishes beside 1 in fp64, and in every dtype below: silu(g) == g.
constexpr std::array<float, 2> kExactGates = {128.0F, 64.0F};
constexpr Dim kExactUpEntries = 3;
constexpr Dim kExactDownEntries = 4;

std::uint64_t index_of(Dim a, Dim size_b, Dim b) {
  return static_cast<std::uint64_t>(a) * static_cast<std::uint64_t>(size_b) + static_cast<std::uint64_t>(b);
}

// The bit arithmetic of bf16_from_float without its NaN case, in a shape that the compiler turns into vector code.
__attribute__((optimize("O3"), target_clones("avx2", "default"))) void round_to_bf16(float* row, std::size_t size) {
  for (std::size_t i = 0; i < size; ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, row + i, sizeof bits);
    bits = (bits + 0x7FFFU + ((bits >> 16) & 1U)) & 0xFFFF0000U;
    std::memcpy(row + i, &bits, sizeof bits);
  }
}

void round_row(DType dtype, std::span<float> row) {
  if (dtype == DType::kF32) return;
  if (dtype == DType::kBF16) return round_to_bf16(row.data(), row.size());
  for (float& value : row) value = static_cast<float>(base::round_to(dtype, static_cast<double>(value)));
}

void constant_row(double value, std::span<float> row) { std::ranges::fill(row, static_cast<float>(value)); }

void small_integers(const Stream& stream, std::uint64_t first, std::span<float> out) {
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(static_cast<int>(stream.bits(first + i) % 3U) - 1);
}

// `count` entries of +-1 at places drawn from the stream; where two meet, the last one stays.
void sparse_signs(const Stream& stream, std::uint64_t row, Dim count, std::span<float> out) {
  std::ranges::fill(out, 0.0F);
  for (Dim j = 0; j < count; ++j) {
    const std::uint32_t bits = stream.bits(row * 8 + static_cast<std::uint64_t>(j));
    out[(bits >> 1) % out.size()] = (bits & 1U) != 0 ? 1.0F : -1.0F;
  }
}

// Column e < E of a designed token. Normal values get a jitter, so that columns are not constant.
void token_code(const Problem& problem, Dim token, std::span<float> out_D) {
  const bool exact = problem.values == Values::kExact;
  const bool ties = problem.routing == Routing::kTies;
  const WantedExperts wanted = wanted_experts(problem, token);
  const auto experts = static_cast<std::size_t>(problem.model.num_experts);
  std::vector<float> jitter(experts, 0.0F);
  if (!exact && !ties) fill_normal({problem.seed, "tokens/jitter"}, index_of(token, problem.model.num_experts, 0), 0.04, jitter);
  for (std::size_t e = 0; e < experts; ++e) out_D[e] = static_cast<float>(kOtherCode) + (exact ? 0.0F : jitter[e]);
  // A sigmoid has the slope 1/4 at 0, and none far out.
  const float exact_code = problem.model.score_function == model::ScoreFunction::kSigmoid ? 0.0F : 1.0F;
  // A step that is representable in bf16 for up to 16 choices, and keeps the last one well above the others.
  const double step = problem.model.top_k <= 8 ? 0.125 : 0.03125;
  for (std::size_t j = 0; j < wanted.chosen.size(); ++j) {
    const auto e = static_cast<std::size_t>(wanted.chosen[j]);
    const bool is_favourite = j == 0 && problem.routing == Routing::kOneExpert;
    const double code = kFirstCode - step * static_cast<double>(j) + (is_favourite ? kFavouriteLead : 0.0);
    out_D[e] = exact ? exact_code : static_cast<float>(code) + jitter[e];
  }
  if (wanted.tied >= 0) out_D[static_cast<std::size_t>(wanted.tied)] = out_D[static_cast<std::size_t>(wanted.chosen.back())];
}

template <typename FillRow>
HostTensor tensor_of_rows(DType dtype, Dim rows, Dim columns, FillRow fill_row) {
  HostTensor tensor(dtype, {rows, columns});
  std::vector<float> row(static_cast<std::size_t>(columns));
  for (Dim r = 0; r < rows; ++r) {
    fill_row(r, std::span<float>(row));
    if (dtype == DType::kBF16) {
      auto out = tensor.mutable_view<std::uint16_t>().subspan(static_cast<std::size_t>(r) * row.size(), row.size());
      for (std::size_t i = 0; i < row.size(); ++i) out[i] = base::bf16_from_float(row[i]);
    } else if (dtype == DType::kF32) {
      std::ranges::copy(row, tensor.mutable_view<float>().begin() + r * columns);
    } else {
      for (std::size_t i = 0; i < row.size(); ++i) tensor.set(r * columns + static_cast<Dim>(i), static_cast<double>(row[i]));
    }
  }
  return tensor;
}

}  // namespace

Generator::Generator(const Problem& problem) : problem_(problem) {}

void Generator::router_row(Dim expert, std::span<float> out_D) const {
  const Dim d_model = problem_.model.d_model;
  const Stream stream(problem_.seed, "router");
  if (problem_.values == Values::kExact) {
    std::ranges::fill(out_D, 0.0F);
    out_D[static_cast<std::size_t>(expert)] = kExactRouter;
    return;
  }
  const double root = std::sqrt(static_cast<double>(d_model));
  if (!is_designed(problem_)) {
    fill_normal(stream, index_of(expert, d_model, 0), kLogitScale / root, out_D);
  } else if (problem_.routing == Routing::kTies) {
    std::ranges::fill(out_D, 0.0F);
    out_D[static_cast<std::size_t>(expert)] = static_cast<float>(kDesignedGain);
  } else {
    fill_normal(stream, index_of(expert, d_model, 0), kDesignedNoise / root, out_D);
    out_D[static_cast<std::size_t>(expert)] += static_cast<float>(kDesignedGain);
  }
  round_row(problem_.dtype, out_D);
}

void Generator::gate_up_row(Dim expert, Dim row, std::span<float> out_D) const { gate_up_rows(expert, row, out_D); }

void Generator::down_row(Dim expert, Dim row, std::span<float> out_F) const { down_rows(expert, row, out_F); }

void Generator::gate_up_rows(Dim expert, Dim first_row, std::span<float> out) const {
  const auto d_model = static_cast<std::size_t>(problem_.model.d_model);
  const Stream stream(problem_.seed, "gate_up");
  const std::uint64_t first = index_of(expert, problem_.model.gate_up_rows(), first_row);
  if (problem_.values == Values::kNormal) {
    fill_normal(stream, first * d_model, 1.0 / std::sqrt(static_cast<double>(d_model)), out);
    return round_row(problem_.dtype, out);
  }
  for (std::size_t r = 0; r < out.size() / d_model; ++r) {
    const auto row_D = out.subspan(r * d_model, d_model);
    const bool is_gate = first_row + static_cast<Dim>(r) < problem_.model.d_ff;
    if (problem_.values == Values::kExact) {
      sparse_signs(stream, first + r, is_gate ? 0 : kExactUpEntries, row_D);
      if (is_gate) row_D.back() = (stream.bits((first + r) * 8) & 1U) != 0 ? kExactGates[0] : kExactGates[1];
    } else {
      constant_row(static_cast<double>(expert + 1) * (is_gate ? 0x1p-10 : 0x1p-11), row_D);
      round_row(problem_.dtype, row_D);
    }
  }
}

void Generator::down_rows(Dim expert, Dim first_row, std::span<float> out) const {
  const auto d_ff = static_cast<std::size_t>(problem_.model.d_ff);
  const Stream stream(problem_.seed, "down");
  const std::uint64_t first = index_of(expert, problem_.model.d_model, first_row);
  switch (problem_.values) {
    case Values::kNormal:
      fill_normal(stream, first * d_ff, kDownScale / std::sqrt(static_cast<double>(d_ff)), out);
      return round_row(problem_.dtype, out);
    case Values::kExact:
      for (std::size_t r = 0; r < out.size() / d_ff; ++r)
        sparse_signs(stream, first + r, kExactDownEntries, out.subspan(r * d_ff, d_ff));
      return;
    case Values::kProvenance:
      constant_row(static_cast<double>(expert + 1) * 0x1p-9, out);
      return round_row(problem_.dtype, out);
  }
}

void Generator::attention_row(Dim row, std::span<float> out_D) const {
  const Dim d_model = problem_.model.d_model;
  fill_normal({problem_.seed, "attention"}, index_of(row, d_model, 0), 1.0 / std::sqrt(static_cast<double>(d_model)), out_D);
  round_row(problem_.dtype, out_D);
}

void Generator::token_row(Dim token, std::span<float> out_D) const {
  const Stream stream(problem_.seed, "tokens");
  const std::uint64_t first = index_of(token, problem_.model.d_model, 0);
  switch (problem_.values) {
    case Values::kNormal: fill_normal(stream, first, 1.0, out_D); break;
    case Values::kExact:
      small_integers(stream, first, out_D);
      out_D.back() = 1.0F;
      break;
    case Values::kProvenance: constant_row(static_cast<double>(token + 1) * 0x1p-6, out_D); break;
  }
  if (is_designed(problem_)) token_code(problem_, token, out_D);
  round_row(problem_.dtype, out_D);
}

void Generator::output_grad_row(Dim token, std::span<float> out_D) const {
  const Stream stream(problem_.seed, "output_grad");
  const std::uint64_t first = index_of(token, problem_.model.d_model, 0);
  if (problem_.values == Values::kExact) {
    return small_integers(stream, first, out_D);
  }
  fill_normal(stream, first, 1.0, out_D);
  round_row(problem_.dtype, out_D);
}

HostTensor Generator::router_ED() const {
  return tensor_of_rows(problem_.dtype, problem_.model.num_experts, problem_.model.d_model,
                        [&](Dim row, std::span<float> out) { router_row(row, out); });
}

HostTensor Generator::attention_DD() const {
  return tensor_of_rows(problem_.dtype, problem_.model.d_model, problem_.model.d_model,
                        [&](Dim row, std::span<float> out) { attention_row(row, out); });
}

HostTensor Generator::gate_FD(Dim expert) const {
  return tensor_of_rows(problem_.dtype, problem_.model.d_ff, problem_.model.d_model,
                        [&](Dim row, std::span<float> out) { gate_up_row(expert, row, out); });
}

HostTensor Generator::up_FD(Dim expert) const {
  return tensor_of_rows(problem_.dtype, problem_.model.d_ff, problem_.model.d_model,
                        [&](Dim row, std::span<float> out) { gate_up_row(expert, problem_.model.d_ff + row, out); });
}

HostTensor Generator::down_DF(Dim expert) const {
  return tensor_of_rows(problem_.dtype, problem_.model.d_model, problem_.model.d_ff,
                        [&](Dim row, std::span<float> out) { down_row(expert, row, out); });
}

HostTensor Generator::tokens_TD(Dim rank, Dim batch) const {
  const Dim first = batch * problem_.total_tokens() + problem_.first_token(rank);
  return tensor_of_rows(problem_.dtype, problem_.num_tokens(rank), problem_.model.d_model,
                        [&](Dim row, std::span<float> out) { token_row(first + row, out); });
}

HostTensor Generator::output_grad_TD(Dim rank, Dim batch) const {
  const Dim first = batch * problem_.total_tokens() + problem_.first_token(rank);
  return tensor_of_rows(problem_.dtype, problem_.num_tokens(rank), problem_.model.d_model,
                        [&](Dim row, std::span<float> out) { output_grad_row(first + row, out); });
}

}  // namespace moecheck::inputs
