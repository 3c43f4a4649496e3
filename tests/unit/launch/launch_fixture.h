// What the tests of processes share: a folder, waiting for a condition, and whether a process is there.
#pragma once

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <thread>
#include <unistd.h>

#include <gtest/gtest.h>

#include "harness/base/result.h"
#include "harness/model/model_spec.h"

namespace moecheck::launch {

// Generous: only a failing test waits that long.
constexpr std::chrono::seconds kLongEnough{20};

inline bool eventually(const std::function<bool()>& holds) {
  const auto deadline = std::chrono::steady_clock::now() + kLongEnough;
  while (!holds()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

// A process that ended and was not reaped is none: init takes its time.
inline bool is_running(int pid) {
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  if (!std::getline(stat, text)) return false;
  const auto name_end = text.rfind(')');
  return name_end != std::string::npos && text.substr(name_end + 2, 1) != "Z";
}

inline std::string text_of(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::stringstream all;
  all << in.rdbuf();
  return all.str();
}

// The number in a file that a process writes; -1 while it is not there.
inline int pid_in(const std::filesystem::path& file) {
  const std::string text = text_of(file);
  return text.empty() ? -1 : std::atoi(text.c_str());
}

inline base::Result<model::ModelSpec> tiny_family(std::string_view family) {
  model::ModelSpec spec;
  spec.family = family;
  spec.num_experts = 12;
  spec.top_k = 3;
  spec.d_model = 48;
  spec.d_ff = 96;
  return spec;
}

class TemporaryFolder : public testing::Test {
 protected:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "launch_test_XXXXXX").string();
    if (::mkdtemp(pattern.data()) != nullptr) folder_ = pattern;
  }
  ~TemporaryFolder() override {
    std::error_code code;
    std::filesystem::remove_all(folder_, code);
  }
  std::filesystem::path folder_;
};

}  // namespace moecheck::launch
