#include "harness/model/model_spec.h"

#include "harness/base/require.h"

namespace moecheck::model {

std::string expert_tensor_name(const std::string& pattern, Dim expert) {
  const auto at = pattern.find("{e}");
  MOECHECK_REQUIRE(at != std::string::npos, pattern);
  return pattern.substr(0, at) + std::to_string(expert) + pattern.substr(at + 3);
}

std::string packed_tensor_name(std::string_view per_expert_pattern, std::string_view part) {
  const auto at = per_expert_pattern.find("{e}");
  MOECHECK_REQUIRE(at != std::string_view::npos, std::string(per_expert_pattern));
  return std::string(per_expert_pattern.substr(0, at)).append(part);
}

}  // namespace moecheck::model
