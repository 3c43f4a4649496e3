// moecheck zoo list, moecheck zoo run
#include <algorithm>
#include <cstdio>
#include <memory>
#include <set>

#include <fmt/format.h>

#include "harness/cli/commands.h"
#include "harness/cli/run_session.h"
#include "harness/driver/zoo.h"
#include "harness/launch/interrupts.h"

namespace moecheck::cli {
namespace {

using base::Json;

Json fault_json(const subject::FaultInfo& fault) {
  Json checks = Json::array();
  for (const subject::ExpectedCatch& expected : fault.expected)
    if (std::ranges::find(checks, Json(expected.check)) == checks.end()) checks.push_back(expected.check);
  return {{"name", fault.name},       {"origin", fault.origin},   {"expected_checks", checks},
          {"summary", fault.summary}, {"replaces", fault.replaces}, {"trigger", fault.trigger},
          {"control", fault.is_control}};
}

int list_zoo(const std::string& subject, bool is_json) {
  auto prepared = prepare(subject);
  if (!prepared) return report_error(prepared.error().text(), exit_code_of(prepared.error()));
  Json all = Json::array();
  for (const subject::FaultInfo& fault : prepared->capabilities.faults) {
    all.push_back(fault_json(fault));
    if (is_json) continue;
    fmt::print("{}  ({})\n    {}\n    replaces {}; {} by", fault.name, fault.origin, fault.summary, fault.replaces,
               fault.is_control ? "a control: called noise" : "caught");
    for (const subject::ExpectedCatch& expected : fault.expected) fmt::print(" {};", driver::catch_text(expected));
    fmt::print("\n    moecheck run --fault {}\n", fault.name);
  }
  if (is_json) std::puts(all.dump(1).c_str());
  return record::kExitGood;
}

// For each fault its trigger case, sound and with the fault.
base::Result<Selection> zoo_cases(const subject::Capabilities& capabilities) {
  SelectionOptions options;
  for (const subject::FaultInfo& fault : capabilities.faults) {
    options.case_ids.push_back(fault.trigger);
    options.case_ids.push_back(fmt::format("{} fault={}", fault.trigger, fault.name));
  }
  return select_cases(options);
}

const record::CaseRecord* find_case(const record::RunRecord& run, std::string_view fault) {
  for (const record::CaseRecord& one : run.cases)
    for (const auto& [knob, value] : one.config)
      if (knob == "fault" && value == fault) return &one;
  return nullptr;
}

std::set<std::string> failing_checks(const record::CaseRecord& one) {
  std::set<std::string> names;
  for (const record::Finding& finding : one.findings)
    if (record::is_failure(finding)) names.insert(finding.check);
  return names;
}

std::set<std::string> checks_with_noise(const record::CaseRecord& one) {
  std::set<std::string> names;
  for (const record::Finding& finding : one.findings)
    if (!record::is_failure(finding) && finding.cls != record::FindingClass::kBenignFlip) names.insert(finding.check);
  return names;
}

std::string_view matrix_mark(const subject::FaultInfo& fault, const record::CaseRecord* one, const std::string& check) {
  const bool is_declared = std::ranges::any_of(fault.expected, [&](const auto& expected) { return expected.check == check; });
  if (one == nullptr) return ".";
  if (failing_checks(*one).contains(check)) return is_declared && !fault.is_control ? "X" : "x";
  if (fault.is_control && checks_with_noise(*one).contains(check)) return is_declared ? "N" : "n";
  return ".";
}

// One line a fault, one column a check: x caught, X caught where it is, as declared; n called noise, N as declared.
void print_matrix(const std::vector<subject::FaultInfo>& faults, const record::RunRecord& run) {
  std::set<std::string> columns;
  for (const subject::FaultInfo& fault : faults) {
    if (const auto* one = find_case(run, fault.name)) columns.merge(failing_checks(*one));
    if (const auto* one = find_case(run, fault.name); one != nullptr && fault.is_control) columns.merge(checks_with_noise(*one));
  }
  fmt::print("{:<28}", "fault x check");
  for (const std::string& check : columns) fmt::print(" {}", check);
  fmt::print("\n");
  for (const subject::FaultInfo& fault : faults) {
    fmt::print("{:<28}", fault.name);
    for (const std::string& check : columns) fmt::print(" {:^{}}", matrix_mark(fault, find_case(run, fault.name), check), check.size());
    fmt::print("{}\n", fault.is_control ? "  (control)" : "");
  }
  fmt::print("X caught at the declared stage, rank and expert; x caught as well; N a control, called noise as declared; n noise as well; . silent\n");
}

// How many expectations were missed.
int print_missed(const std::vector<subject::FaultInfo>& faults, const record::RunRecord& run) {
  int num_missed = 0;
  for (const subject::FaultInfo& fault : faults) {
    const record::CaseRecord* one = find_case(run, fault.name);
    const std::string_view verdict = one == nullptr ? "none" : record::verdict_name(one->verdict);
    for (const std::string& missed : one == nullptr ? std::vector<std::string>{"the case did not run"} : driver::missed_catches(fault, *one)) {
      fmt::print("{}  {}: {} (verdict {})\n", fault.is_control ? "CONTROL MISSED" : "NOT CAUGHT", fault.name, missed, verdict);
      ++num_missed;
    }
  }
  return num_missed;
}

// How many sound cases did not pass.
int print_unsound(const record::RunRecord& run) {
  int num_unsound = 0;
  for (const record::CaseRecord& one : run.cases) {
    const bool is_sound = std::ranges::any_of(one.config, [](const auto& knob) { return knob.first == "fault" && knob.second == "none"; });
    if (!is_sound || one.verdict == record::Verdict::kPass) continue;
    fmt::print("SOUND CASE IS {}: {}\n", record::verdict_name(one.verdict), one.id);
    ++num_unsound;
  }
  return num_unsound;
}

int run_zoo(RunArguments arguments) {
  launch::count_interrupts();
  auto prepared = prepare(arguments.subject);
  if (!prepared) return report_error(prepared.error().text(), exit_code_of(prepared.error()));
  auto selection = zoo_cases(prepared->capabilities);
  if (!selection) return report_error(selection.error().text(), record::kExitInternal);
  if (selection->cases.empty()) return report_error(prepared->capabilities.name + " has no faults to run", record::kExitNothing);
  // What a fault run prints is no news: the matrix is the result.
  arguments.is_quiet = true;
  auto run = run_with_progress(arguments, std::move(selection->cases), *prepared);
  if (!run) return report_error(run.error().text(), exit_code_of(run.error()));
  if (run->interrupted) return record::kExitInterrupted;
  print_matrix(prepared->capabilities.faults, *run);
  const int num_bad = print_missed(prepared->capabilities.faults, *run) + print_unsound(*run);
  fmt::print("moecheck zoo: {} faults, {} expectations missed\n", prepared->capabilities.faults.size(), num_bad);
  return num_bad == 0 ? record::kExitGood : record::kExitFailed;
}

}  // namespace

void add_zoo(CLI::App& app, Action& action, const std::string& command_line) {
  CLI::App* zoo = app.add_subcommand("zoo", "the known bugs that a subject can inject into itself");
  zoo->require_subcommand(1);
  CLI::App* list = zoo->add_subcommand("list", "list them");
  auto arguments = std::make_shared<RunArguments>();
  list->add_option("--subject", arguments->subject, "command of the subject; default: moecheck-rank");
  list->add_flag("--json", arguments->is_json, "as JSON");
  list->callback([&action, arguments] { action = [arguments] { return list_zoo(arguments->subject, arguments->is_json); }; });
  CLI::App* run = zoo->add_subcommand("run", "run each in its trigger case and see which checks catch it");
  run->add_option("--subject", arguments->subject, "command of the subject; default: moecheck-rank");
  run->add_option("--out", arguments->out, "run folder; default: a new one in .moecheck/runs");
  run->add_option("--timeout", arguments->timeout_s, "seconds for one case");
  run->callback([&action, arguments, command_line] {
    arguments->command_line = command_line;
    action = [arguments] { return run_zoo(*arguments); };
  });
}

}  // namespace moecheck::cli
