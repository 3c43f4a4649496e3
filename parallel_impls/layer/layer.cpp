#include "parallel_impls/layer/layer.h"

namespace moecheck::parallel_impls {
namespace {

std::vector<Implementation>& registered() {
  static std::vector<Implementation> all;
  return all;
}

}  // namespace

const std::vector<Implementation>& implementations() { return registered(); }

bool register_implementation(Implementation implementation) {
  registered().push_back(std::move(implementation));
  return true;
}

}  // namespace moecheck::parallel_impls
