// Checkpoints on tmpfs, written once for all cases that load the same bytes.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "harness/base/result.h"
#include "harness/cases/case.h"

namespace moecheck::driver {

// A folder that is removed with its last user.
class CheckpointFolder {
 public:
  explicit CheckpointFolder(std::filesystem::path path) : path_(std::move(path)) {}
  ~CheckpointFolder();
  CheckpointFolder(const CheckpointFolder&) = delete;
  CheckpointFolder& operator=(const CheckpointFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// Thread-safe. Keeps about a gigabyte; what is in use stays beyond that.
class CheckpointCache {
 public:
  explicit CheckpointCache(std::filesystem::path folder) : folder_(std::move(folder)) {}
  // Errors: kIo (disk full).
  base::Result<std::shared_ptr<const CheckpointFolder>> get(const cases::Case& one);

 private:
  std::filesystem::path folder_;
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<const CheckpointFolder>> kept_;
  std::uintmax_t kept_bytes_ = 0;
  int next_ = 0;
};

}  // namespace moecheck::driver
