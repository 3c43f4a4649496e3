#include "harness/check/weight_rows.h"

#include <bit>
#include <cstring>

#include "harness/base/philox.h"
#include "harness/trace/layout.h"

namespace moecheck::check {
namespace {

template <typename Bits, typename Convert>
void convert(std::span<const float> from, std::vector<std::byte>& to, Convert convert_one) {
  to.resize(from.size() * sizeof(Bits));
  for (std::size_t i = 0; i < from.size(); ++i) {
    const Bits bits = convert_one(from[i]);
    std::memcpy(to.data() + i * sizeof bits, &bits, sizeof bits);
  }
}

}  // namespace

WeightRows::WeightRows(const base::Shape& global) : num_experts_(global.size() == 3 ? global[0] : 1) {
  MOECHECK_REQUIRE(global.size() == 2 || global.size() == 3, base::shape_text(global));
  num_rows_ = global[global.size() - 2];
  num_columns_ = global.back();
}

GeneratedRows::GeneratedRows(const inputs::Generator& generator, std::string_view tap)
    : WeightRows(trace::global_param_shape(generator.problem().model, tap)), generator_(generator), tap_(tap) {
  row_.resize(static_cast<std::size_t>(num_columns()));
}

std::span<const std::byte> GeneratedRows::bytes(Dim expert, Dim row, Columns columns) {
  if (tap_ == "param/experts/gate_up_EGD") generator_.gate_up_row(expert, row, row_);
  else if (tap_ == "param/experts/down_EDF") generator_.down_row(expert, row, row_);
  else if (tap_ == "param/router/w_ED") generator_.router_row(row, row_);
  else generator_.attention_row(row, row_);
  const std::span<const float> whole = row_;
  const auto part = whole.subspan(static_cast<std::size_t>(columns.first), static_cast<std::size_t>(columns.count));
  switch (generator_.problem().dtype) {
    case base::DType::kF32: convert<float>(part, bytes_, [](float v) { return v; }); break;
    // The generator has rounded already: the upper half of the bits is the whole value.
    case base::DType::kBF16:
      convert<std::uint16_t>(part, bytes_, [](float v) { return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(v) >> 16); });
      break;
    case base::DType::kF16: convert<std::uint16_t>(part, bytes_, [](float v) { return base::f16_from_float(v); }); break;
    default: MOECHECK_REQUIRE(false, std::string(base::knob_name(generator_.problem().dtype)));
  }
  return bytes_;
}

TensorRows::TensorRows(base::HostTensor global) : WeightRows(global.shape()), global_(std::move(global)) {}

std::span<const std::byte> TensorRows::bytes(Dim expert, Dim row, Columns columns) {
  const std::size_t item = base::itemsize(global_.dtype());
  const Dim first = (expert * num_rows() + row) * num_columns() + columns.first;
  return global_.bytes().subspan(static_cast<std::size_t>(first) * item, static_cast<std::size_t>(columns.count) * item);
}

std::uint64_t hash_of(std::span<const std::byte> bytes) {
  return base::fnv1a(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

}  // namespace moecheck::check
