// moecheck explain CHECK|FAULT|VERDICT
#include <memory>

#include <fmt/format.h>

#include "harness/base/nearest_name.h"
#include "harness/check/registry.h"
#include "harness/cli/commands.h"
#include "harness/cli/run_session.h"
#include "harness/driver/zoo.h"

namespace moecheck::cli {
namespace {

bool explain_check(const std::string& name) {
  const check::Check* found = check::find_check(name);
  if (found == nullptr) return false;
  fmt::print("check {}\n  Proves:       {}\n  Cannot prove: {}\n  Reads:        {}\n  Applies when: {}\n", name, found->doc.proves,
             found->doc.cannot_prove, found->doc.reads, found->doc.applies_when);
  return true;
}

bool explain_verdict(const std::string& name) {
  const auto verdict = record::verdict_from_name(name);
  if (!verdict) return false;
  fmt::print("verdict {}\n  {}\n  {}\n", name, record::verdict_meaning(*verdict),
             record::is_failure(*verdict) ? "It makes a run fail (exit code 1)." : "It does not make a run fail.");
  return true;
}

bool explain_fault(const std::string& name, const subject::Capabilities& capabilities) {
  const subject::FaultInfo* fault = capabilities.find_fault(name);
  if (fault == nullptr) return false;
  fmt::print("fault {}\n  Origin:   {}\n  Bug:      {}\n  Replaces: {}\n  Trigger:  {}\n", name, fault->origin, fault->summary, fault->replaces, fault->trigger);
  if (fault->is_control) fmt::print("  Control:  no bug; the case passes with it\n");
  for (const subject::ExpectedCatch& expected : fault->expected)
    fmt::print("  {} by {}\n", fault->is_control ? "Called noise" : "Caught", driver::catch_text(expected));
  return true;
}

int explain(const std::string& name) {
  if (explain_check(name) || explain_verdict(name)) return record::kExitGood;
  std::vector<std::string> known;
  for (const check::Check& one : check::checks()) known.emplace_back(one.name);
  for (const record::Verdict verdict : record::all_verdicts()) known.emplace_back(record::verdict_name(verdict));
  if (auto prepared = prepare("")) {
    if (explain_fault(name, prepared->capabilities)) return record::kExitGood;
    for (const subject::FaultInfo& fault : prepared->capabilities.faults) known.push_back(fault.name);
  }
  return report_error(fmt::format("'{}' is no check, fault or verdict{}", name, base::suggestion(name, known)), record::kExitUsage);
}

}  // namespace

void add_explain(CLI::App& app, Action& action) {
  auto name = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("explain", "what a check proves, a fault does or a verdict means");
  command->add_option("name", *name, "name of a check, fault or verdict")->required();
  command->callback([&action, name] { action = [name] { return explain(*name); }; });
}

}  // namespace moecheck::cli
