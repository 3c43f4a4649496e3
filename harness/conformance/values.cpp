// Loading moves bytes: whatever bits a weight has, they arrive.
#include <algorithm>
#include <array>
#include <cstring>

#include <fmt/format.h>

#include "harness/conformance/declared.h"
#include "harness/conformance/item.h"
#include "harness/conformance/trial.h"
#include "harness/subject/checkpoint.h"
#include "harness/trace/layout.h"

namespace moecheck::conformance {
namespace {

using base::HostTensor;
using model::Dim;
using Tensors = std::map<std::string, HostTensor, std::less<>>;

// Quiet and signalling NaN with payloads, infinities, subnormals, -0.
constexpr std::array<std::uint32_t, 8> kOddFp32 = {0x7fc12345, 0xffc54321, 0x7f812345, 0x7f800000, 0xff800000, 0x00000001, 0x807fffff, 0x80000000};
constexpr std::array<std::uint16_t, 8> kOddBf16 = {0x7fd5, 0xffe1, 0x7f91, 0x7f80, 0xff80, 0x0001, 0x807f, 0x8000};
// Prime, so that every column and every expert has some.
constexpr std::size_t kStride = 7;

template <typename Bits>
void strew(HostTensor& tensor, std::span<const Bits> odd) {
  auto elements = tensor.mutable_view<Bits>();
  for (std::size_t i = 0; i < elements.size(); i += kStride) elements[i] = odd[i / kStride % odd.size()];
}

HostTensor with_odd_values(const HostTensor& from) {
  HostTensor tensor(from.dtype(), from.shape());
  std::ranges::copy(from.bytes(), tensor.mutable_bytes().begin());
  if (from.dtype() == base::DType::kF32) {
    strew<std::uint32_t>(tensor, kOddFp32);
  } else {
    strew<std::uint16_t>(tensor, kOddBf16);
  }
  return tensor;
}

// Experts of a checkpoint as the parameter taps have them, whole.
Tensors parameters_of(const Tensors& file, const model::ModelSpec& m) {
  const auto stack = [&](std::string_view tap, const std::vector<std::string>& patterns) {
    HostTensor whole(file.begin()->second.dtype(), trace::global_param_shape(m, tap));
    auto to = whole.mutable_bytes().begin();
    for (Dim e = 0; e < m.num_experts; ++e)
      for (const std::string& pattern : patterns) to = std::ranges::copy(file.at(model::expert_tensor_name(pattern, e)).bytes(), to).out;
    return whole;
  };
  Tensors parameters = {{"param/attention/w_DD", file.at(m.names.attention)}, {"param/router/w_ED", file.at(m.names.router)}};
  parameters.emplace("param/experts/gate_up_EGD", stack("param/experts/gate_up_EGD", {m.names.gate, m.names.up}));
  parameters.emplace("param/experts/down_EDF", stack("param/experts/down_EDF", {m.names.down}));
  return parameters;
}

// What a rank keeps of a whole parameter.
HostTensor part_of(const HostTensor& whole, const model::Problem& problem, std::string_view tap, Dim rank) {
  std::vector<std::vector<Dim>> held;
  base::Shape shape;
  for (std::size_t d = 0; d < whole.shape().size(); ++d) {
    held.push_back(trace::declared_indices(problem, tap, rank, static_cast<Dim>(d)));
    shape.push_back(static_cast<Dim>(held.back().size()));
  }
  HostTensor part(whole.dtype(), shape);
  const std::size_t size = base::itemsize(whole.dtype());
  for (Dim flat = 0; flat < part.numel(); ++flat) {
    Dim rest = flat, from = 0, stride = 1;
    for (std::size_t d = shape.size(); d-- > 0; rest /= shape[d]) {
      from += held[d][static_cast<std::size_t>(rest % shape[d])] * stride;
      stride *= whole.shape()[d];
    }
    std::memcpy(part.mutable_bytes().data() + static_cast<std::size_t>(flat) * size,
                whole.bytes().data() + static_cast<std::size_t>(from) * size, size);
  }
  return part;
}

std::string bits_text(const HostTensor& tensor, std::size_t element) {
  const std::size_t size = base::itemsize(tensor.dtype());
  std::uint32_t bits = 0;
  std::memcpy(&bits, tensor.bytes().data() + element * size, size);
  return fmt::format("0x{:0{}x}", bits, 2 * size);
}

std::string difference(const HostTensor& want, const HostTensor& got) {
  if (got.dtype() != want.dtype() || got.shape() != want.shape())
    return fmt::format("has {} {}, and the file {} {}", base::knob_name(got.dtype()), base::shape_text(got.shape()),
                       base::knob_name(want.dtype()), base::shape_text(want.shape()));
  const std::size_t size = base::itemsize(want.dtype());
  const auto at = static_cast<std::size_t>(std::ranges::mismatch(want.bytes(), got.bytes()).in1 - want.bytes().begin()) / size;
  return fmt::format("element {} is {}, and in the file {}", at, bits_text(got, at), bits_text(want, at));
}

struct Comparison {
  Dim num_same = 0;
  Dim num_generated = 0;    // as the generator made them, whatever is in the file
  std::string difference;   // the first
};

void compare(Comparison& comparison, const model::Problem& problem, const trace::RankTrace& rank, const Tensors& spoilt, const Tensors& generated) {
  for (const auto& [tap, whole] : spoilt) {
    const HostTensor* shown = rank.tensor(tap);
    if (shown == nullptr) continue;
    const HostTensor want = part_of(whole, problem, tap, rank.rank);
    const bool is_same = base::same_bytes(*shown, want);
    comparison.num_same += is_same ? 1 : 0;
    comparison.num_generated += base::same_bytes(*shown, part_of(generated.find(tap)->second, problem, tap, rank.rank)) ? 1 : 0;
    if (!is_same && comparison.difference.empty()) comparison.difference = fmt::format("{} on rank {}: {}", tap, rank.rank, difference(want, *shown));
  }
}

// Loads the folder's checkpoint alone. Errors: kSubject with what a rank did instead.
base::Result<trace::Trace> loaded_trace(Trial& trial, const cases::Case& one, const std::filesystem::path& checkpoint) {
  const auto error = [](const std::string& text) { return base::Error{base::ErrorCode::kSubject, text, ""}; };
  auto pool = trial.start_ranks(one.world_size());
  if (!pool) return pool.error();
  const auto folder = trial.new_folder("t");
  (*pool)->begin_case(one.problem.mesh);
  for (const base::Json& request : {open_request(one, **pool, checkpoint, folder), base::Json{{"op", "load"}}, base::Json{{"op", "close"}}}) {
    const launch::CallResult result = ask(**pool, request, one.world_size(), trial.options().limit);
    for (std::size_t r = 0; r < result.ranks.size(); ++r) {
      const std::string silence = silence_text(result.ranks[r]);
      if (!silence.empty() || !result.ranks[r].reply->is_ok)
        return error(fmt::format("to {} rank {} {}", request["op"].get<std::string>(), r,
                                 silence.empty() ? "answers: " + result.ranks[r].reply->message : silence));
    }
  }
  return trace::read_phase(folder, "load", one.world_size());
}

ItemResult values_of(Trial& trial, const cases::Case& one) {
  const auto folder = trial.new_checkpoint(one);
  if (!folder) return failed(folder.error().text());
  const auto file = trace::read_safetensors(*folder / subject::kCheckpointFile);
  if (!file) return failed(file.error().text());
  Tensors generated(file->tensors.begin(), file->tensors.end()), spoilt;
  std::vector<trace::NamedTensor> named;
  for (const auto& [name, tensor] : generated) {
    spoilt.emplace(name, with_odd_values(tensor));
    named.push_back({name, spoilt.at(name)});
  }
  if (auto written = trace::write_safetensors(*folder / subject::kCheckpointFile, named, {{"format", "pt"}}); !written)
    return failed(written.error().text());
  const auto trace = loaded_trace(trial, one, *folder);
  if (!trace) return failed("with NaN, infinities, subnormals and -0 among the weights: " + trace.error().text());
  Comparison comparison;
  for (const trace::RankTrace& rank : trace->ranks)
    compare(comparison, one.problem, rank, parameters_of(spoilt, one.problem.model), parameters_of(generated, one.problem.model));
  const std::string dtype(base::knob_name(one.problem.dtype));
  if (comparison.difference.empty() && comparison.num_same == 0) return not_applicable("it shows no param/* after load");
  if (comparison.num_same == 0 && comparison.num_generated > 0) return not_applicable("it generates its weights itself and reads no checkpoint");
  if (!comparison.difference.empty())
    return failed(fmt::format("{}: {}; load by copying bytes, without arithmetic or a detour over another dtype", dtype,
                              comparison.difference));
  return ok(fmt::format("{}: {} parameters", dtype, comparison.num_same));
}

}  // namespace

ItemResult values(Trial& trial) {
  if (trial.capabilities().is_one_shot) return not_applicable("ranks that take a case whole are not started by hand");
  const auto& sound = trial.sound_case();
  if (!sound) return failed("no case passes; begin with --only cases");
  std::string text;
  for (const std::string& dtype : trial.capabilities().dtypes) {
    auto one = trial.case_of(fmt::format("impl={} model=qwen3_moe mesh={} tokens_over={} experts_backend={} dtype={} phases=load",
                                         sound->one.impl, sound->one.problem.mesh.text(),
                                         sound->one.problem.token_dims_text(), sound->one.experts_backend, dtype));
    if (!one) return failed(one.error().text());
    const ItemResult result = values_of(trial, one->one);
    if (result.outcome != Outcome::kOk) return result;
    text += (text.empty() ? "" : ", ") + result.message;
  }
  return ok(text + " are shown byte for byte");
}

}  // namespace moecheck::conformance
