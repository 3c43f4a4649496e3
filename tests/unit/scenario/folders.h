// Folders for the tests of scenarios: the real ones, and a fresh one that is removed again.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include "harness/base/files.h"

namespace moecheck::scenario {

inline std::filesystem::path scenarios_dir() { return std::filesystem::path(MOECHECK_SOURCE_DIR) / "scenarios"; }
inline std::filesystem::path models_dir() { return scenarios_dir() / "models"; }

// An empty folder of its own for each test; gone when the test ends.
class FolderTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "moecheck_scenario_XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path write(const std::string& name, std::string_view text) {
    const auto path = folder_ / name;
    EXPECT_TRUE(base::make_folders(path.parent_path()));
    EXPECT_TRUE(base::write_file_atomically(path, text));
    return path;
  }

  std::filesystem::path folder_;
};

}  // namespace moecheck::scenario
