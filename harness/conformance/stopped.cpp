// A rank that stands still for a while, as on a machine that is busy with something else.
#include <csignal>
#include <thread>

#include <fmt/format.h>

#include "harness/conformance/item.h"
#include "harness/conformance/signals.h"
#include "harness/conformance/trial.h"

namespace moecheck::conformance {
namespace {

constexpr std::chrono::milliseconds kPause{300};

}  // namespace

ItemResult stopped(Trial& trial) {
  if (trial.capabilities().is_one_shot) return not_applicable("nobody is told when a subject that takes a case whole begins its forward");
  const auto& sound = trial.sound_case();
  if (!sound) return failed("no case passes; begin with --only cases");
  if (!sound->one.has_phase("forward")) return not_applicable("it offers no forward");
  Blow blow([](int process) {
    ::kill(process, SIGSTOP);
    std::this_thread::sleep_for(kPause);
    ::kill(process, SIGCONT);
  });
  const auto records = trial.run({*sound}, {{}, blow.observer(), {}});
  if (!records) return failed(records.error().text());
  if (!blow.has_struck()) return failed("the forward of " + sound->id + " never began");
  if (records->front().verdict != record::Verdict::kPass)
    return failed(fmt::format("rank {} stood still for {} ms in its forward and went on: {}; "
                              "a collective has to wait longer than that", blow.rank(), kPause.count(),
                              record_text(records->front())));
  return ok(fmt::format("rank {} stood still for {} ms", blow.rank(), kPause.count()));
}

}  // namespace moecheck::conformance
