// The docs are about this tree: checks, faults, knobs, taps, modules, verdicts and exit codes are in them as the source has them.
#include <filesystem>
#include <regex>

#include <fmt/format.h>
#include <gmock/gmock.h>

#include "harness/base/files.h"
#include "tests/architecture/layers.h"
#include "tests/architecture/source_text.h"
#include "tests/architecture/source_tree.h"

namespace moecheck::architecture {
namespace {

using testing::IsEmpty;

// The groups of every match, joined into rows.
std::vector<std::vector<std::string>> rows_of(const std::string& text, const std::string& pattern) {
  const std::regex regex(pattern);
  std::vector<std::vector<std::string>> rows;
  for (std::sregex_iterator match(text.begin(), text.end(), regex), end; match != end; ++match) {
    rows.emplace_back();
    for (std::size_t group = 1; group < match->size(); ++group) rows.back().push_back((*match)[group]);
  }
  return rows;
}

// Those of `texts` that the page does not have; pages of checks, faults and knobs are written by ci/docs.
std::vector<std::string> missing(const std::string& page, std::vector<std::string> texts) {
  std::erase_if(texts, [&](const std::string& text) { return page.find(text) != std::string::npos; });
  return texts;
}

// One "## name" section of a page; empty if there is none.
std::string section(const std::string& page, const std::string& name) {
  const auto begin = page.find("\n## " + name + "\n");
  if (begin == std::string::npos) return "";
  return page.substr(begin, page.find("\n## ", begin + 1) - begin);
}

TEST(Docs, QuoteTheDocBlockOfEveryCheck) {
  const std::string page = text_of("docs/checks.md");
  int num_checks = 0;
  for (const SourceFile& file : cpp_files()) {
    if (!is_check(file.path)) continue;
    ++num_checks;
    const std::string about = section(page, stem(file.path));
    const CheckDoc doc = doc_block(file.text);
    const std::vector<std::string> parts = {doc.proves, doc.cannot_prove, doc.reads, doc.applies_when};
    EXPECT_THAT(missing(about, parts), IsEmpty()) << file.path << ": run ci/docs";
  }
  EXPECT_GE(num_checks, 9);
}

TEST(Docs, QuoteTheRegistrationOfEveryFault) {
  const std::string page = text_of("docs/zoo.md");
  int num_faults = 0;
  for (const SourceFile& file : cpp_files()) {
    if (!is_fault(file.path)) continue;
    ++num_faults;
    const std::string about = section(page, stem(file.path));
    // Links stand between the words of an origin; [text](url) is text again.
    const std::string plain = std::regex_replace(about, std::regex(R"(\[([^\]]*)\]\([^)]*\))"), "$1");
    EXPECT_THAT(missing(plain, string_literals(fault_registration(file.text))), IsEmpty()) << file.path << ": run ci/docs";
  }
  EXPECT_GE(num_faults, 8);
}

TEST(Docs, HaveARowForEveryKnob) {
  const std::string page = text_of("docs/knobs.md");
  const std::string table = text_of("harness/cases/fields.cpp");
  const auto knobs = rows_of(table, R"re(\{"(\w+)", "(\w*)", "(\w+)", F::k\w+, [^\n]*(?:true|false), "([^"\n]+)")re");
  EXPECT_GE(knobs.size(), 18U);
  for (const auto& knob : knobs) {
    const std::string place = knob[1].empty() ? knob[2] : knob[1] + "." + knob[2];
    EXPECT_THAT(missing(page, {"| `" + knob[0] + "` | `" + place + "` |", "| " + knob[3] + " |"}), IsEmpty()) << "run ci/docs";
  }
  std::vector<std::string> choices;
  for (const auto& choice : rows_of(table, R"re(Named\{[\w:]+, "(\w+)"\})re")) choices.push_back("`" + choice[0] + "`");
  EXPECT_GE(choices.size(), 13U);
  EXPECT_THAT(missing(page, choices), IsEmpty()) << "run ci/docs";
}

TEST(Docs, ExplainEveryExitCode) {
  const auto codes = rows_of(text_of("harness/record/verdict.h"), R"(kExit\w+ = (\d+))");
  EXPECT_EQ(codes.size(), 8U);
  for (const char* page : {"README.md", "docs/architecture.md"})
    for (const auto& code : codes) EXPECT_THAT(missing(text_of(page), {"\n| " + code[0] + " | "}), IsEmpty()) << page;
}

TEST(Docs, NameEveryVerdictTapModuleAndCheckInArchitecture) {
  const std::string page = text_of("docs/architecture.md");
  std::vector<std::string> names;
  const std::string verdicts = text_of("harness/record/verdict.cpp");
  const std::string taps = text_of("harness/trace/tap_points.cpp");
  for (const auto& row : rows_of(verdicts, R"re(VerdictRow\{Verdict::k\w+, "(\w+)")re")) names.push_back("`" + row[0] + "`");
  for (const auto& row : rows_of(taps, R"re(TapPoint\{"([^"]+)")re")) names.push_back("| `" + row[0] + "` |");
  for (const Module& module : modules()) names.push_back(fmt::format("| {} | `{}` |", module.level, module.name));
  for (const SourceFile& file : cpp_files())
    if (is_check(file.path)) names.push_back("| `" + stem(file.path) + "` |");
  EXPECT_GT(names.size(), 50U);
  EXPECT_THAT(missing(page, names), IsEmpty());
}

TEST(Docs, LinkToFilesThatAreThere) {
  std::vector<std::string> broken;
  for (const SourceFile& file : source_tree()) {
    if (!file.path.ends_with(".md") || file.path.starts_with("tests/golden/")) continue;
    for (const auto& link : rows_of(file.text, R"(\]\(([^)#:\s]+)(?:#[^)]*)?\))")) {
      const auto target = std::filesystem::path(MOECHECK_SOURCE_DIR) / std::filesystem::path(file.path).parent_path() / link[0];
      if (!std::filesystem::exists(target)) broken.push_back(file.path + ": " + link[0]);
    }
  }
  EXPECT_THAT(broken, IsEmpty());
}

TEST(ModuleTable, IsTheOneThatCMakeBuilds) {
  for (const SourceFile& file : source_tree()) {
    if (!file.path.ends_with("CMakeLists.txt")) continue;
    const auto found = rows_of(file.text, R"(moecheck_module\((\w+)(?: DEPS ([a-z_ ]+))?)");
    if (found.empty()) continue;
    const Module* module = find_module(found[0][0]);
    ASSERT_NE(module, nullptr) << file.path;
    std::string row;
    for (const std::string_view below : module->includes) row += (row.empty() ? "" : " ") + std::string(below);
    std::string built = found[0][1];
    while (built.ends_with(' ')) built.pop_back();
    EXPECT_EQ(built, row) << file.path;
  }
}

}  // namespace
}  // namespace moecheck::architecture
