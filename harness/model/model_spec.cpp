#include "harness/model/model_spec.h"

#include "harness/base/require.h"

namespace moecheck::model {

std::string expert_tensor_name(const std::string& pattern, Dim expert) {
  const auto at = pattern.find("{e}");
  MOECHECK_REQUIRE(at != std::string::npos, pattern);
  return pattern.substr(0, at) + std::to_string(expert) + pattern.substr(at + 3);
}

}  // namespace moecheck::model
