// moecheck list, moecheck show
#include <cstdio>
#include <memory>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "harness/cli/commands.h"
#include "harness/cli/run_session.h"

namespace moecheck::cli {
namespace {

using base::Json;

Json config_json(const cases::Case& one) {
  Json config = Json::object();
  for (const auto& [knob, value] : cases::config_of(one)) config[knob] = value;
  return config;
}

int list_cases(const SelectionOptions& options, bool is_json) {
  SelectionOptions all = options;
  if (all.targets.empty() && all.case_ids.empty()) all.targets.emplace_back("cases");
  auto selection = select_cases(all);
  if (!selection) return report_error(selection.error().text(), exit_code_of(selection.error()));
  Json list = Json::array();
  for (const driver::IdentifiedCase& one : selection->cases) {
    if (!is_json) fmt::print("{}\n", one.id);
    if (is_json)
      list.push_back({{"id", one.id}, {"scenario", one.one.scenario}, {"config", config_json(one.one)}, {"tags", one.one.tags},
                      {"ranks", one.one.world_size()}});
  }
  if (is_json) std::puts(list.dump(1).c_str());
  if (selection->cases.empty()) return report_error("nothing selected", record::kExitNothing);
  return record::kExitGood;
}

std::string names_text(std::string_view what, model::Dim first, model::Dim count) {
  if (count == 0) return fmt::format("no {}", what);
  return fmt::format("{} {}..{}", what, first, first + count - 1);
}

void show_ranks(const model::Problem& problem) {
  const model::Mesh& mesh = problem.mesh;
  const model::Dim e = problem.model.num_experts / mesh.size("ep");
  for (model::Dim r = 0; r < mesh.world_size(); ++r) {
    std::string place;
    for (const model::MeshDim& dim : mesh.dims()) place += fmt::format(" {}={}", dim.name, mesh.coordinate(r, dim.name));
    const std::string slice = mesh.has("tp") ? fmt::format(", slice {} of {} of each", mesh.coordinate(r, "tp"), mesh.size("tp")) : "";
    fmt::print("  rank {}{}: {}, {}{}\n", r, place.empty() ? "" : " (" + place.substr(1) + ")",
               names_text("tokens", problem.first_token(r), problem.num_tokens(r)),
               names_text("experts", mesh.coordinate(r, "ep") * e, e), slice);
  }
}

int show_case(const SelectionOptions& options) {
  auto selection = select_cases(options);
  if (!selection) return report_error(selection.error().text(), exit_code_of(selection.error()));
  if (selection->cases.empty()) return report_error("nothing selected", record::kExitNothing);
  for (const driver::IdentifiedCase& one : selection->cases) {
    fmt::print("{}\n  scenario: {}\n", one.id, one.one.scenario);
    for (const auto& [knob, value] : cases::config_of(one.one)) fmt::print("  {}: {}\n", knob, value);
    show_ranks(one.one.problem);
  }
  return record::kExitGood;
}

}  // namespace

void add_list(CLI::App& app, Action& action) {
  auto options = std::make_shared<SelectionOptions>();
  auto is_json = std::make_shared<bool>(false);
  CLI::App* list = app.add_subcommand("list", "list the cases of scenarios, suites or folders; default: all scenarios");
  list->add_option("targets", options->targets, "scenario files, folders, suites or case ids");
  list->add_option("-k", options->expression, "only cases whose id, scenario or tags match");
  list->add_option("--tag", options->tags, "only cases with this tag");
  list->add_option("--set", options->sets, "knob=value for every case");
  list->add_option("--shard", options->shard, "i/n");
  list->add_flag("--json", *is_json, "as JSON");
  list->callback([&action, options, is_json] { action = [options, is_json] { return list_cases(*options, *is_json); }; });
  CLI::App* show = app.add_subcommand("show", "what a case is made of, and who holds what");
  show->add_option("case", options->targets, "case ids or scenarios")->required();
  show->add_option("--set", options->sets, "knob=value");
  show->callback([&action, options] { action = [options] { return show_case(*options); }; });
}

}  // namespace moecheck::cli
