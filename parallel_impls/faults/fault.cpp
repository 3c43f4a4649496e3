#include "parallel_impls/faults/fault.h"

#include <algorithm>

namespace moecheck::parallel_impls {
namespace {

std::vector<Fault>& registered() {
  static std::vector<Fault> all;
  return all;
}

}  // namespace

const std::vector<Fault>& faults() { return registered(); }

bool register_fault(Fault fault) {
  registered().push_back(std::move(fault));
  std::ranges::sort(registered(), {}, [](const Fault& one) { return one.info.name; });
  return true;
}

}  // namespace moecheck::parallel_impls
