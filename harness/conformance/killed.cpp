// SIGKILL of a rank in the middle of a forward, as the kernel sends it when memory is out.
#include <csignal>
#include <thread>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "harness/conformance/item.h"
#include "harness/conformance/signals.h"
#include "harness/conformance/trial.h"

namespace moecheck::conformance {
namespace {

// For what was killed to be gone.
constexpr std::chrono::milliseconds kGrace{2000};
constexpr std::chrono::milliseconds kLook{20};

// What is still there after the grace; it is ended here, since nobody else would.
std::vector<int> left_behind(const Blow& blow, const std::string& scratch) {
  std::vector<int> left;
  for (std::chrono::milliseconds waited{0}; waited < kGrace; waited += kLook) {
    left = left_running(blow.processes(), scratch);
    if (left.empty()) return left;
    std::this_thread::sleep_for(kLook);
  }
  for (const int process : left) ::kill(process, SIGKILL);
  return left;
}

}  // namespace

ItemResult killed(Trial& trial) {
  if (trial.capabilities().is_one_shot) return not_applicable("nobody is told when a subject that takes a case whole begins its forward");
  const auto& sound = trial.sound_case();
  if (!sound) return failed("no case passes, and so none can be seen to pass after a crash; begin with --only cases");
  if (!sound->one.has_phase("forward")) return not_applicable("it offers no forward");
  Blow blow([](int process) { ::kill(process, SIGKILL); });
  const auto records = trial.run({*sound, *sound}, {{}, blow.observer(), {}});
  const std::vector<int> left = left_behind(blow, trial.options().scratch.string());
  if (!records) return failed(records.error().text());
  if (!blow.has_struck()) return failed("the forward of " + sound->id + " never began");
  const record::CaseRecord& struck = records->front();
  const std::string rank = fmt::format("rank {} ", blow.rank());
  if (struck.verdict != record::Verdict::kCrash)
    return failed(fmt::format("rank {} was killed in its forward and the verdict is {}; expected crash: "
                              "ranks must not outlive or hide the end of one of them", blow.rank(), record_text(struck)));
  if (struck.reason.find(rank) == std::string::npos)
    return failed(fmt::format("rank {} was killed in its forward, and the verdict names another: {}", blow.rank(), record_text(struck)));
  if (!left.empty())
    return failed(fmt::format("after a crash and the end of all ranks processes are left running: {}; "
                              "what a rank starts has to stay in its session and end with it", fmt::join(left, ", ")));
  if (records->back().verdict != record::Verdict::kPass)
    return failed(fmt::format("the case after a crash does not pass: {}; look for files, ports or segments that the killed ranks left",
                              record_text(records->back())));
  return ok(fmt::format("crash of rank {} told after {:.1f} s, and the next case passes", blow.rank(), struck.seconds));
}

}  // namespace moecheck::conformance
