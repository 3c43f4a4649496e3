// Our own mistakes abort, in release too. Outside-world errors are Result<T>, properties of a subject are findings.
#pragma once

#include <string>

namespace moecheck::base {

[[noreturn]] void abort_with(const char* condition, const char* file, int line, const std::string& values);

}  // namespace moecheck::base

// MOECHECK_REQUIRE(cond) or MOECHECK_REQUIRE(cond, text with the values that broke it)
#define MOECHECK_REQUIRE(cond, ...)                                                       \
  do {                                                                                    \
    if (!(cond)) [[unlikely]]                                                             \
      ::moecheck::base::abort_with(#cond, __FILE__, __LINE__, std::string(__VA_ARGS__));  \
  } while (false)
