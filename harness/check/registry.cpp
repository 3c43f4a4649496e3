#include "harness/check/registry.h"

#include <algorithm>

#include "harness/base/require.h"

namespace moecheck::check {
namespace {

// Function-local: checks register themselves during static initialisation, in any order of files.
std::vector<Check>& storage() {
  static std::vector<Check> all;
  return all;
}

}  // namespace

const std::vector<Check>& checks() { return storage(); }

const Check* find_check(std::string_view name) {
  const auto found = std::ranges::find(checks(), name, &Check::name);
  return found == checks().end() ? nullptr : &*found;
}

bool register_check(const Check& check) {
  MOECHECK_REQUIRE((check.run == nullptr) != (check.run_case == nullptr) && find_check(check.name) == nullptr, std::string(check.name));
  auto& all = storage();
  all.insert(std::ranges::upper_bound(all, check.name, {}, &Check::name), check);
  return true;
}

}  // namespace moecheck::check
