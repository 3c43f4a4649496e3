// A private folder on tmpfs for sockets, stores, checkpoints and traces; removed when the object goes.
#pragma once

#include <filesystem>

#include "harness/base/result.h"

namespace moecheck::launch {

class ScratchDir {
 public:
  // In MOECHECK_TMPDIR, else /dev/shm, else the system's temporary folder. Folders of drivers that are gone are removed.
  // Errors: kIo with the folder and the remedy.
  static base::Result<ScratchDir> make();
  ~ScratchDir();
  ScratchDir(ScratchDir&& other) noexcept;
  ScratchDir& operator=(ScratchDir&&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  explicit ScratchDir(std::filesystem::path path) : path_(std::move(path)) {}
  std::filesystem::path path_;
};

}  // namespace moecheck::launch
