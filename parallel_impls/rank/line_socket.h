// Lines over a UNIX stream socket, from the rank's end.
#pragma once

#include <optional>
#include <string>

#include "harness/base/json.h"

namespace moecheck::parallel_impls {

class LineSocket {
 public:
  // Errors: std::runtime_error if nobody listens at `path`.
  explicit LineSocket(const std::string& path);
  ~LineSocket();
  LineSocket(const LineSocket&) = delete;
  LineSocket& operator=(const LineSocket&) = delete;

  std::optional<std::string> read_line();   // nothing when the driver closed it
  void write(const base::Json& message);    // one line

 private:
  int fd_ = -1;
  std::string buffer_;
};

}  // namespace moecheck::parallel_impls
