#include "harness/conformance/kit.h"

#include <algorithm>

#include <fmt/format.h>

#include "harness/base/nearest_name.h"
#include "harness/launch/interrupts.h"

namespace moecheck::conformance {
namespace {

using Clock = std::chrono::steady_clock;

base::Status check_names(const std::vector<std::string>& names, const char* option) {
  std::vector<std::string> known;
  for (const Item& item : items()) known.emplace_back(item.name);
  for (const std::string& name : names)
    if (std::ranges::find(known, name) == known.end())
      return base::Error{base::ErrorCode::kUsage, fmt::format("there is no item '{}'{}", name, base::suggestion(name, known)), option};
  return base::Ok{};
}

// A subject that is not there at all is no subject that fails.
base::Status check_started(const Trial& trial) {
  launch::LauncherOptions options{trial.options().command, trial.options().scratch / "l", false, trial.options().limit};
  auto described = launch::make_process_launcher(std::move(options))->describe();
  if (described) return base::Ok{};
  const std::string text = described.error().text();
  // What a shell says of a program that is not there, or not to be run.
  const bool is_absent = text.find("exit code 127") != std::string::npos || text.find("exit code 126") != std::string::npos ||
                         described.error().code == base::ErrorCode::kIo;
  return is_absent ? base::Status(described.error()) : base::Status(base::Ok{});
}

}  // namespace

int KitResult::count(Outcome outcome) const {
  return static_cast<int>(std::ranges::count_if(items, [&](const One& one) { return one.result.outcome == outcome; }));
}

base::Result<KitResult> run_kit(Trial& trial, const KitOptions& options) {
  for (const auto& [names, option] : {std::pair(&options.only, "--only"), std::pair(&options.skip, "--skip")})
    if (auto known = check_names(*names, option); !known) return known.error();
  if (auto started = check_started(trial); !started) return started.error();
  const auto is_wanted = [&](const Item& item) {
    const auto has = [&](const std::vector<std::string>& names) { return std::ranges::find(names, item.name) != names.end(); };
    return (options.only.empty() || has(options.only)) && !has(options.skip);
  };
  KitResult kit;
  for (const Item& item : items()) {
    // What is offered has to be known, also where nobody asks whether it makes sense.
    const bool is_first = &item == items().data();
    if (!is_wanted(item) && !is_first) continue;
    if (is_wanted(item) && options.on_start) options.on_start(item);
    const auto start = Clock::now();
    ItemResult result = !is_first && !trial.has_capabilities()
                            ? not_applicable("it is not known what the subject offers; see describe")
                            : item.run(trial);
    if (launch::num_interrupts() > 0) {
      kit.is_interrupted = true;
      break;
    }
    if (is_first && !is_wanted(item)) {
      if (!trial.has_capabilities()) return base::Error{base::ErrorCode::kSubject, result.message, "describe"};
      continue;
    }
    kit.items.push_back({&item, std::move(result), std::chrono::duration<double>(Clock::now() - start).count()});
    if (options.on_end) options.on_end(kit.items.back());
  }
  return kit;
}

}  // namespace moecheck::conformance
