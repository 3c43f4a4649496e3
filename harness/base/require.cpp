#include "harness/base/require.h"

#include <cstdio>
#include <cstdlib>

namespace moecheck::base {

void abort_with(const char* condition, const char* file, int line, const std::string& values) {
  std::fprintf(stderr, "moecheck: internal error at %s:%d: %s%s%s\n", file, line, condition,
               values.empty() ? "" : "; ", values.c_str());
  std::abort();
}

}  // namespace moecheck::base
