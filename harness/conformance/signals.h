// What befalls a rank in the middle of a forward, and what is left of it.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "harness/launch/rank_start.h"

namespace moecheck::conformance {

// Watches the ranks of a run and does something to the last of them in its first forward.
class Blow {
 public:
  // strike: with the process of the rank, which waits for the others in the middle of its forward if they ever wait for each other.
  explicit Blow(std::function<void(int process)> strike) : strike_(std::move(strike)) {}

  launch::SentObserver observer();
  bool has_struck() const { return has_struck_; }
  // The rank that was struck, and all that were started.
  int rank() const { return rank_; }
  const std::set<int>& processes() const { return processes_; }

 private:
  void in_forward(const std::vector<int>& processes);

  std::function<void(int process)> strike_;
  bool has_struck_ = false;
  int rank_ = -1;
  std::set<int> processes_;
};

// Processes that belong to one of these ranks (which lead sessions of their own) or were started with a socket below `scratch`.
std::vector<int> left_running(const std::set<int>& ranks, const std::string& scratch);

}  // namespace moecheck::conformance
