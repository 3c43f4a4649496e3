#include "tests/architecture/layers.h"

#include <algorithm>

#include "harness/base/require.h"

namespace moecheck::architecture {

std::span<const Module> modules() {
  static const std::vector<Module> table = {
      {"base", 0, {}},
      {"model", 1, {"base"}},
      {"record", 1, {"base"}},
      {"cases", 2, {"base", "model"}},
      {"inputs", 2, {"base", "model"}},
      {"trace", 2, {"base", "model"}},
      {"tolerance", 2, {"base", "model"}},
      {"reports", 2, {"base", "record"}},
      {"scenario", 3, {"base", "model", "cases"}},
      {"subject", 3, {"base", "model", "inputs", "trace", "cases"}},
      // Above tolerance: the bound of a whole layer is composed along the layer's own products.
      {"reference", 3, {"base", "model", "inputs", "trace", "cases", "tolerance"}},
      {"checkpoint", 3, {"base", "model", "trace"}},
      {"bisect", 3, {"base", "cases", "record"}},
      // Above checkpoint, which it reads.
      {"check", 4, {"base", "model", "inputs", "trace", "cases", "tolerance", "record", "checkpoint"}},
      // Above subject, whose protocol it speaks.
      {"launch", 4, {"base", "trace", "cases", "subject"}},
      {"parallel_impls", 4, {"base", "model", "inputs", "trace", "cases", "subject", "checkpoint"}},
      {"driver", 5, {"scenario", "launch", "reference", "check"}},
      {"conformance", 6, {"driver"}},
      {"cli", 7, {"conformance", "bisect", "reports", "checkpoint"}},
  };
  return table;
}

const Module* find_module(std::string_view name) {
  const auto found = std::ranges::find(modules(), name, &Module::name);
  return found == modules().end() ? nullptr : &*found;
}

std::set<std::string, std::less<>> allowed_includes(std::string_view module) {
  const Module* row = find_module(module);
  MOECHECK_REQUIRE(row != nullptr, std::string(module));
  std::set<std::string, std::less<>> allowed;
  for (const std::string_view below : row->includes) {
    allowed.emplace(below);
    allowed.merge(allowed_includes(below));
  }
  return allowed;
}

std::string module_of(std::string_view path) {
  const auto folder = [](std::string_view text) { return text.substr(0, std::min(text.find('/'), text.size())); };
  const std::string_view top = folder(path);
  if (top == "reference" || top == "reports" || top == "parallel_impls") return std::string(top);
  if (top != "harness" || path.find('/', top.size() + 1) == std::string_view::npos) return "";
  return std::string(folder(path.substr(top.size() + 1)));
}

std::span<const ThirdParty> third_parties() {
  static const std::vector<ThirdParty> table = {
      {"LibTorch", {"torch/", "ATen/", "c10/", "caffe2/"}, {"parallel_impls/"}},
      {"yaml-cpp", {"yaml-cpp/"}, {"harness/scenario/"}},
      {"Boost", {"boost/"}, {"harness/launch/"}},
      {"Eigen", {"Eigen/", "unsupported/Eigen/"}, {"reference/", "tests/unit/reference/"}},
      {"xxHash", {"xxhash"}, {"harness/checkpoint/"}},
      {"CLI11", {"CLI/"}, {"harness/cli/"}},
      {"GoogleTest", {"gtest/", "gmock/", "rapidcheck"}, {"tests/"}},
  };
  return table;
}

}  // namespace moecheck::architecture
