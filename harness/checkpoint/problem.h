// What is wrong with a checkpoint, at one place.
#pragma once

#include <string>
#include <vector>

namespace moecheck::checkpoint {

struct Problem {
  std::string file;     // its name in the checkpoint's folder
  std::string tensor;   // empty: it is about the whole file
  std::string message;

  std::string text() const { return file + (tensor.empty() ? "" : ": tensor '" + tensor + "'") + ": " + message; }
  bool operator==(const Problem&) const = default;
};

using Problems = std::vector<Problem>;

}  // namespace moecheck::checkpoint
