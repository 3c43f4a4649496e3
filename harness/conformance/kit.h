// Runs the items of the kit on a subject.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "harness/conformance/item.h"
#include "harness/conformance/trial.h"

namespace moecheck::conformance {

struct KitResult {
  struct One {
    const Item* item = nullptr;
    ItemResult result;
    double seconds = 0;
  };
  std::vector<One> items;
  bool is_interrupted = false;   // what had not ended is not there

  int count(Outcome outcome) const;
};

struct KitOptions {
  std::vector<std::string> only;   // names of items; empty: all
  std::vector<std::string> skip;
  std::function<void(const Item&)> on_start;
  std::function<void(const KitResult::One&)> on_end;
};

// Errors: kUsage for a name that no item has; kSubject if the subject cannot be started, or if it does not say what it offers and `describe`
// is not among the items.
base::Result<KitResult> run_kit(Trial& trial, const KitOptions& options);

}  // namespace moecheck::conformance
