// Result<T>: a value, or an Error that came from the outside world (YAML, files, processes, sockets).
#pragma once

#include <string>
#include <utility>
#include <variant>

#include "harness/base/require.h"

namespace moecheck::base {

enum class ErrorCode {
  kUsage,        // the user's input is wrong: scenario, option, case id
  kIo,           // a file or folder cannot be read or written
  kDamaged,      // a file is there but is not what it claims to be
  kUnsupported,  // declared as not supported
  kSubject,      // the subject failed, or broke the protocol
  kInterrupted,  // by a signal
};

// `where` is "file:line:column", a file, or empty; `message` says what was expected, found, and the remedy.
struct Error {
  ErrorCode code = ErrorCode::kUsage;
  std::string message;
  std::string where;

  std::string text() const { return where.empty() ? message : where + ": " + message; }
};

struct Ok {};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}       // NOLINT: implicit on purpose, `return value;`
  Result(Error error) : state_(std::move(error)) {}   // NOLINT: implicit on purpose, `return Error{...};`

  bool ok() const { return std::holds_alternative<T>(state_); }
  explicit operator bool() const { return ok(); }

  const T& value() const& {
    MOECHECK_REQUIRE(ok(), error().text());
    return std::get<T>(state_);
  }
  T& value() & {
    MOECHECK_REQUIRE(ok(), error().text());
    return std::get<T>(state_);
  }
  T&& value() && {
    MOECHECK_REQUIRE(ok(), error().text());
    return std::get<T>(std::move(state_));
  }
  const T& operator*() const& { return value(); }
  T& operator*() & { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  const T* operator->() const { return &value(); }
  T* operator->() { return &value(); }

  const Error& error() const {
    MOECHECK_REQUIRE(!std::holds_alternative<T>(state_));
    return std::get<Error>(state_);
  }

 private:
  std::variant<T, Error> state_;
};

using Status = Result<Ok>;

}  // namespace moecheck::base
