// Which experts a tensor is about, by its name and shape.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "harness/base/host_tensor.h"

namespace moecheck::checkpoint {

// "model.layers.0.mlp.experts.3.gate_proj.weight": group "model.layers.0.mlp.experts", expert 3, part "gate_proj.weight".
// Packed, "model.layers.0.mlp.experts.gate_up_proj" with three dimensions: no expert, and dim 0 counts them.
struct ExpertName {
  std::string group;
  std::optional<std::int64_t> expert;
  std::string part;
};

// Segments end at "." or "/". None for a tensor of no expert: a router, a shared expert.
std::optional<ExpertName> expert_name(std::string_view name, const base::Shape& shape);

// The name with `numbers` for the expert's number: "model.layers.0.mlp.experts.{0..7}.gate_proj.weight".
// Requires: name.expert.
std::string folded_name(std::string_view full_name, const ExpertName& name, std::string_view numbers);

// "0..3, 7"; "none" for none.
std::string ranges_text(const std::set<std::int64_t>& numbers);

}  // namespace moecheck::checkpoint
