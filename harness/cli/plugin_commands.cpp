// moecheck plugin check, moecheck plugin new
#include <cstdio>
#include <memory>

#include <fmt/format.h>

#include "harness/cli/commands.h"
#include "harness/cli/places.h"
#include "harness/cli/run_session.h"
#include "harness/conformance/kit.h"
#include "harness/conformance/scaffold.h"
#include "harness/launch/interrupts.h"
#include "harness/scenario/load.h"

namespace moecheck::cli {
namespace {

namespace fs = std::filesystem;
using base::Json;
using conformance::KitResult;
using conformance::Outcome;

struct CheckArguments {
  std::string target;
  std::vector<std::string> only;
  std::vector<std::string> skip;
  double timeout_s = 60;
  bool is_json = false;
};

// What stands after --subject in a line that repeats a case.
std::string subject_of(const std::string& target) {
  return target.ends_with(".so") ? fmt::format("{} --plugin {}", rank_program().string(), fs::absolute(target).string()) : target;
}

std::vector<std::string> command_of(const std::string& target) {
  if (target.ends_with(".so")) return {rank_program().string(), "--plugin", fs::absolute(target).string()};
  return subject_command(target);
}

void print(const KitResult::One& one) {
  fmt::print("{:<4}  {:<9} {:6.1f} s  {}\n", conformance::outcome_name(one.result.outcome), one.item->name, one.seconds, one.result.message);
  for (const std::string& note : one.result.notes) fmt::print("                           {}\n", note);
  std::fflush(stdout);
}

std::string summary_of(const KitResult& kit) {
  return fmt::format("{} ok, {} failed, {} not applicable{}", kit.count(Outcome::kOk), kit.count(Outcome::kFailed),
                     kit.count(Outcome::kNotApplicable),
                     kit.is_interrupted ? "; interrupted" : "");
}

Json json_of(const KitResult& kit, const std::string& target, const conformance::Trial& trial) {
  Json list = Json::array();
  for (const KitResult::One& one : kit.items)
    list.push_back({{"name", one.item->name}, {"proves", one.item->proves},
                    {"outcome", conformance::outcome_name(one.result.outcome)}, {"seconds", one.seconds},
                    {"message", one.result.message}, {"notes", one.result.notes}});
  return {{"target", target}, {"subject", trial.has_capabilities() ? trial.capabilities().name : ""},
          {"interrupted", kit.is_interrupted}, {"items", list}};
}

int kit_exit_code(const KitResult& kit) {
  if (kit.count(Outcome::kFailed) > 0) return record::kExitFailed;
  return kit.is_interrupted ? record::kExitInterrupted : record::kExitGood;
}

int check_plugin(const CheckArguments& arguments) {
  launch::count_interrupts();
  const auto fail = [](const base::Error& error) { return report_error(error.text(), exit_code_of(error)); };
  if (arguments.target.ends_with(".so") && !fs::exists(arguments.target))
    return report_error(arguments.target + ": there is no such plug-in", record::kExitCouldNotTest);
  auto scenarios = scenarios_dir();
  if (!scenarios) return fail(scenarios.error());
  auto scratch = launch::ScratchDir::make();
  if (!scratch) return fail(scratch.error());
  conformance::Trial trial({command_of(arguments.target), scratch->path(), scenario::family_loader(*scenarios / "models"),
                             milliseconds_of(arguments.timeout_s),
                             fmt::format(" --subject '{}'", subject_of(arguments.target))});
  conformance::KitOptions options{arguments.only, arguments.skip, {}, {}};
  if (!arguments.is_json) options.on_end = print;
  const auto kit = conformance::run_kit(trial, options);
  if (!kit) return fail(kit.error());
  if (arguments.is_json) {
    std::puts(json_of(*kit, arguments.target, trial).dump(1, ' ', false, Json::error_handler_t::replace).c_str());
  } else {
    fmt::print("moecheck plugin check: {}\n", summary_of(*kit));
  }
  return kit_exit_code(*kit);
}

int new_plugin(const std::string& language, const std::string& folder) {
  const auto written = conformance::write_scaffold(language, folder);
  if (!written) return report_error(written.error().text(), exit_code_of(written.error()));
  for (const fs::path& path : *written) fmt::print("{}\n", path.string());
  fmt::print("{} says how to run it\n", (fs::path(folder) / "README.md").string());
  return record::kExitGood;
}

void add_check(CLI::App& plugin, Action& action) {
  CLI::App* check = plugin.add_subcommand("check", "see whether a subject keeps the protocol: the conformance kit");
  auto arguments = std::make_shared<CheckArguments>();
  check->add_option("target", arguments->target, "command of the subject, or a plug-in: a path that ends in .so")->required();
  std::string names;
  for (const conformance::Item& item : conformance::items()) names += fmt::format("{}{}", names.empty() ? "" : ", ", item.name);
  check->add_option("--only", arguments->only, "only these items: " + names)->delimiter(',');
  check->add_option("--skip", arguments->skip, "not these items")->delimiter(',');
  check->add_option("--timeout", arguments->timeout_s, "seconds for a start, a case, an answer")->check(CLI::Range(0.1, 86400.0));
  check->add_flag("--json", arguments->is_json, "as JSON");
  check->callback([&action, arguments] { action = [arguments] { return check_plugin(*arguments); }; });
}

}  // namespace

void add_plugin(CLI::App& app, Action& action) {
  CLI::App* plugin = app.add_subcommand("plugin", "subjects of your own: a check of the protocol, and one to begin with");
  plugin->require_subcommand(1);
  add_check(*plugin, action);
  CLI::App* scaffold = plugin->add_subcommand("new", "write a working subject to begin with, called after its folder");
  scaffold->require_subcommand(1);
  for (const auto& [language, about] : {std::pair("python", "a layer in torch with its tests"),
                                        std::pair("cpp", "a shared object that needs no more than a compiler")}) {
    CLI::App* one = scaffold->add_subcommand(language, about);
    auto folder = std::make_shared<std::string>();
    one->add_option("folder", *folder, "where; made if it is not there, nothing in it is written over")->required();
    one->callback([&action, folder, name = std::string(language)] { action = [folder, name] { return new_plugin(name, *folder); }; });
  }
}

}  // namespace moecheck::cli
