#include <algorithm>

#include "harness/base/require.h"
#include "reports/report.h"

namespace moecheck::reports {
namespace {

// Function-local: formats register themselves during static initialisation, in any order of files.
std::vector<Format>& storage() {
  static std::vector<Format> all;
  return all;
}

}  // namespace

const std::vector<Format>& formats() { return storage(); }

const Format* find_format(std::string_view name) {
  const auto found = std::ranges::find(formats(), name, &Format::name);
  return found == formats().end() ? nullptr : &*found;
}

bool register_format(const Format& format) {
  MOECHECK_REQUIRE(format.render != nullptr && find_format(format.name) == nullptr, std::string(format.name));
  auto& all = storage();
  all.insert(std::ranges::upper_bound(all, format.name, {}, &Format::name), format);
  return true;
}

}  // namespace moecheck::reports
