// The rank's end of the talk with the driver: JSON objects, one a line.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "harness/base/json.h"

namespace moecheck::parallel_impls {

class DriverTalk {
 public:
  virtual ~DriverTalk() = default;
  virtual std::optional<std::string> read_line() = 0;   // nothing when there is no more to do
  virtual void write(const base::Json& message) = 0;    // one line
};

class LineSocket final : public DriverTalk {
 public:
  // address: a path, or "tcp:host:port". Errors: std::runtime_error if nobody listens there.
  explicit LineSocket(const std::string& address);
  ~LineSocket() override;
  LineSocket(const LineSocket&) = delete;
  LineSocket& operator=(const LineSocket&) = delete;

  std::optional<std::string> read_line() override;
  void write(const base::Json& message) override;
  // The network interface that leads to the driver, on which the other ranks can be met; empty for a path.
  std::string interface() const;

 private:
  int fd_ = -1;
  std::string buffer_;
};

// A case that is given whole: requests from a file, answers to another.
class WholeCase final : public DriverTalk {
 public:
  // file: what MOECHECK_CASE names. Errors: std::runtime_error.
  WholeCase(const std::filesystem::path& file, long rank);
  ~WholeCase() override;
  WholeCase(const WholeCase&) = delete;
  WholeCase& operator=(const WholeCase&) = delete;

  // Nothing more after an answer that is not ok.
  std::optional<std::string> read_line() override;
  void write(const base::Json& message) override;

 private:
  std::vector<std::string> requests_;
  std::size_t num_read_ = 0;
  bool has_failed_ = false;
  int fd_ = -1;
};

}  // namespace moecheck::parallel_impls
