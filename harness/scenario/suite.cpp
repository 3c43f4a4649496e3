#include "harness/scenario/suite.h"

#include <algorithm>
#include <fnmatch.h>
#include <optional>
#include <set>

#include <fmt/format.h>

#include "harness/base/nearest_name.h"
#include "harness/scenario/expand.h"
#include "harness/scenario/knob_groups.h"
#include "harness/scenario/load.h"
#include "harness/scenario/yaml_shape.h"

namespace moecheck::scenario {
namespace {

namespace fs = std::filesystem;
using base::Error;
using base::ErrorCode;
using base::Result;
using base::Status;
using cases::Case;
using cases::FamilyLoader;
using cases::KnobValues;

constexpr std::string_view kSuffix = ".yaml";

struct Suite {
  Source source;
  std::vector<fs::path> files;
  KnobGroup set;
  std::optional<Cover> cover;
  std::vector<std::string> tags;
};

bool is_file(const fs::path& path) {
  std::error_code code;
  return fs::is_regular_file(path, code);
}

bool is_folder(const fs::path& path) {
  std::error_code code;
  return fs::is_directory(path, code);
}

std::string below(const fs::path& path, const fs::path& folder) { return path.lexically_relative(folder).generic_string(); }

// The files that one entry of a suite means. Errors: at the entry.
Result<std::vector<fs::path>> files_of_entry(const Source& source, const YamlNode& entry, const fs::path& scenarios_dir) {
  auto text = text_of(source, entry, "suite");
  if (!text) return text.error();
  const fs::path path(*text);
  if (path.is_absolute() || std::ranges::find(path, fs::path("..")) != path.end())
    return source.error_at(entry.spot, fmt::format("'{}' leaves the scenarios folder; paths are relative to it", *text));
  const std::string pattern = text->ends_with(kSuffix) ? *text : *text + std::string(kSuffix);
  std::vector<fs::path> found;
  std::vector<std::string> names;
  for (const fs::path& file : scenario_files(scenarios_dir, scenarios_dir)) {
    names.push_back(below(file, scenarios_dir));
    if (::fnmatch(pattern.c_str(), names.back().c_str(), FNM_PATHNAME) == 0) found.push_back(file);
  }
  if (!found.empty()) return found;
  if (text->find_first_of("*?[") != std::string::npos)
    return source.error_at(entry.spot, fmt::format("no scenario in {} matches '{}'", scenarios_dir.string(), *text));
  const auto near = base::nearest_name(pattern, names);
  return source.error_at(entry.spot, fmt::format("no scenario '{}' in {}{}", *text, scenarios_dir.string(),
                                                 near ? fmt::format("; did you mean '{}'?", *near) : ""));
}

Status read_files(Suite& into, const YamlNode& list, const fs::path& scenarios_dir) {
  if (auto is_list = expect_list(into.source, list, "scenario paths"); !is_list) return is_list.error();
  if (list.items.empty()) return into.source.error_at(list.spot, "the suite lists no scenario");
  for (const YamlNode& entry : list.items) {
    auto files = files_of_entry(into.source, entry, scenarios_dir);
    if (!files) return files.error();
    for (const fs::path& file : *files)
      if (std::ranges::find(into.files, file) == into.files.end()) into.files.push_back(file);
  }
  return base::Ok{};
}

Result<Suite> suite_of(YamlDocument document, const fs::path& scenarios_dir) {
  Suite suite{std::move(document.source), {}, {}, {}, {}};
  const YamlNode& root = document.root;
  if (auto version = check_version(suite.source, root); !version) return version.error();
  if (auto known = check_keys(suite.source, root, {"version", "description", "suite", "set", "cover", "tags"}); !known) return known.error();
  if (const YamlNode* description = find_value(root, "description"))
    if (auto text = text_of(suite.source, *description, "description"); !text) return text.error();
  if (auto files = read_files(suite, *find_value(root, "suite"), scenarios_dir); !files) return files.error();
  if (const YamlNode* set = find_value(root, "set")) {
    auto group = named_knobs(suite.source, *set);
    if (!group) return group.error();
    suite.set = std::move(*group);
  }
  if (const YamlNode* node = find_value(root, "cover")) {
    auto cover = cover_of(suite.source, *node);
    if (!cover) return cover.error();
    suite.cover = *cover;
  }
  if (const YamlNode* tags = find_value(root, "tags")) {
    auto names = tags_of(suite.source, *tags);
    if (!names) return names.error();
    suite.tags = std::move(*names);
  }
  return suite;
}

void add_tags(Case& one, const std::vector<std::string>& tags) {
  for (const std::string& tag : tags)
    if (std::ranges::find(one.tags, tag) == one.tags.end()) one.tags.push_back(tag);
}

// Keeps the first of the cases with one id.
class Collector {
 public:
  explicit Collector(const FamilyLoader& load_family) : load_family_(load_family) {}
  void add(std::vector<Case> more) {
    for (Case& one : more)
      if (ids_.insert(cases::case_id(one, load_family_)).second) cases_.push_back(std::move(one));
  }
  std::vector<Case> take() { return std::move(cases_); }

 private:
  const FamilyLoader& load_family_;
  std::set<std::string> ids_;
  std::vector<Case> cases_;
};

// What a run changes of the scenarios that it takes.
struct Changes {
  const KnobValues& set;
  std::optional<Cover> cover = {};   // of those that cover: in place of their own
};

Result<std::vector<Case>> cases_of_document(YamlDocument document, const Changes& changes, const fs::path& scenarios_dir,
                                            const FamilyLoader& load_family) {
  const std::string name = scenario_name(document.source.path, scenarios_dir);
  auto scenario = scenario_of(std::move(document), name);
  if (!scenario) return scenario.error();
  if (scenario->cover && changes.cover) scenario->cover->strength = std::min(changes.cover->strength, scenario->matrix.size());
  return expand(*scenario, changes.set, load_family);
}

Result<std::vector<Case>> cases_of_files(const std::vector<fs::path>& files, const Changes& changes, const fs::path& scenarios_dir,
                                         const FamilyLoader& load_family) {
  Collector collector(load_family);
  for (const fs::path& file : files) {
    auto document = read_yaml(file);
    if (!document) return document.error();
    auto some = cases_of_document(std::move(*document), changes, scenarios_dir, load_family);
    if (!some) return some.error();
    collector.add(std::move(*some));
  }
  return collector.take();
}

Result<std::vector<Case>> cases_of_suite(const Suite& suite, const KnobValues& set_overrides, const fs::path& scenarios_dir,
                                         const FamilyLoader& load_family) {
  KnobValues set = set_overrides;
  for (const KnobSetting& knob : suite.set.knobs) set.emplace(knob.knob, knob.text);
  auto all = cases_of_files(suite.files, {set, suite.cover}, scenarios_dir, load_family);
  if (!all) {
    // expand takes the suite's values for --set; they have a better place.
    for (const KnobSetting& knob : suite.set.knobs)
      if (all.error().where == "--set " + knob.knob && !set_overrides.contains(knob.knob))
        return suite.source.error_at(knob.spot, all.error().message);
    return all.error();
  }
  for (Case& one : *all) add_tags(one, suite.tags);
  return all;
}

// What the user may mean by `path`, the first that exists.
std::optional<fs::path> resolved(const std::string& path, const fs::path& scenarios_dir) {
  const std::string with_suffix = path + std::string(kSuffix);
  for (const fs::path& candidate : {fs::path(path), fs::path(with_suffix), scenarios_dir / path, scenarios_dir / with_suffix,
                                    scenarios_dir / "suites" / path, scenarios_dir / "suites" / with_suffix})
    if (is_file(candidate) || is_folder(candidate)) return candidate;
  return std::nullopt;
}

Error no_such(const std::string& path, const fs::path& scenarios_dir) {
  std::vector<std::string> known;
  std::error_code ignored;  // without a suites folder there are no suites to offer
  for (const auto& entry : fs::directory_iterator(scenarios_dir / "suites", ignored))
    known.push_back(entry.path().stem().string());
  std::ranges::sort(known);
  for (const fs::path& file : scenario_files(scenarios_dir, scenarios_dir)) {
    known.push_back(below(file, scenarios_dir));
    known.push_back(scenario_name(file, scenarios_dir));
    known.push_back(file.generic_string());
  }
  const auto near = base::nearest_name(path, known);
  return {ErrorCode::kUsage,
          fmt::format("no such scenario, suite or folder, here or in {}{}", scenarios_dir.string(),
                      near ? fmt::format("; did you mean '{}'?", *near) : ""),
          path};
}

}  // namespace

std::vector<fs::path> scenario_files(const fs::path& folder, const fs::path& scenarios_dir) {
  std::vector<fs::path> files;
  std::error_code ignored;  // an unreadable folder has no scenarios; the caller reports that nothing was found
  const fs::recursive_directory_iterator end;
  for (auto it = fs::recursive_directory_iterator(folder, ignored); it != end; it.increment(ignored)) {
    const fs::path& path = it->path();
    std::error_code missing;  // without such a folder nothing is it
    const bool is_other =
        fs::equivalent(path, scenarios_dir / "models", missing) || fs::equivalent(path, scenarios_dir / "suites", missing);
    if (is_other) it.disable_recursion_pending();
    else if (path.extension() == kSuffix && is_file(path)) files.push_back(path);
  }
  std::ranges::sort(files);
  return files;
}

Result<std::vector<Case>> load_cases(const std::string& path, const KnobValues& set_overrides, const fs::path& scenarios_dir,
                                     const FamilyLoader& load_family) {
  const auto found = resolved(path, scenarios_dir);
  if (!found) return no_such(path, scenarios_dir);
  if (is_folder(*found)) {
    const auto files = scenario_files(*found, scenarios_dir);
    if (files.empty()) return Error{ErrorCode::kUsage, "no scenario (*.yaml) below this folder", found->string()};
    return cases_of_files(files, {set_overrides}, scenarios_dir, load_family);
  }
  auto document = read_yaml(*found);
  if (!document) return document.error();
  const bool is_suite = document->root.kind == YamlKind::kMap && find_value(document->root, "suite") != nullptr;
  if (!is_suite) return cases_of_document(std::move(*document), {set_overrides}, scenarios_dir, load_family);
  auto suite = suite_of(std::move(*document), scenarios_dir);
  if (!suite) return suite.error();
  return cases_of_suite(*suite, set_overrides, scenarios_dir, load_family);
}

}  // namespace moecheck::scenario
