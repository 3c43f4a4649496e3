// Stdout and stderr are the subject's own.
#include <array>

#include <fmt/format.h>

#include "harness/conformance/item.h"
#include "harness/conformance/trial.h"

namespace moecheck::conformance {
namespace {

struct Outlet {
  const char* name;
  const char* script;   // for a shell that becomes the subject
};

constexpr std::array kOutlets = {
    Outlet{"a megabyte without a line end on both", "head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2; exec \"$@\""},
    Outlet{"both closed", "exec \"$@\" >&- 2>&-"},
    Outlet{"a full disk behind both", "exec \"$@\" >/dev/full 2>&1"},
};

}  // namespace

ItemResult noise(Trial& trial) {
  const auto& sound = trial.sound_case();
  if (!sound) return failed("no case passes; begin with --only cases");
  for (const Outlet& outlet : kOutlets) {
    std::vector<std::string> command = {"/bin/sh", "-c", outlet.script, "sh"};
    command.insert(command.end(), trial.options().command.begin(), trial.options().command.end());
    const auto records = trial.run({*sound}, {std::move(command), {}, {}});
    if (!records) return failed(records.error().text());
    if (records->front().verdict != record::Verdict::kPass)
      return failed(fmt::format("stdout and stderr: {}: {}; do not let printing raise, "
                                "and take no socket or file for stdout that was opened in its place", outlet.name,
                                record_text(records->front())));
  }
  return ok(fmt::format("{} passes with noise, closed and full outputs", sound->id));
}

}  // namespace moecheck::conformance
