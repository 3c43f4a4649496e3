// The docs are about this tree: every check, fault, knob, tap, module, verdict and exit code is in them, in the words of the source.
#include <filesystem>
#include <regex>

#include <gmock/gmock.h>

#include "harness/base/files.h"
#include "tests/architecture/layers.h"
#include "tests/architecture/source_text.h"
#include "tests/architecture/source_tree.h"

namespace moecheck::architecture {
namespace {

using testing::HasSubstr;
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
    for (const std::string& part : {doc.proves, doc.cannot_prove, doc.reads, doc.applies_when}) EXPECT_THAT(about, HasSubstr(part)) << file.path << ": run ci/docs";
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
    for (const std::string& literal : string_literals(fault_registration(file.text))) EXPECT_THAT(plain, HasSubstr(literal)) << file.path << ": run ci/docs";
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
    EXPECT_THAT(page, HasSubstr("| `" + knob[0] + "` | `" + place + "` |")) << "run ci/docs";
    EXPECT_THAT(page, HasSubstr("| " + knob[3] + " |")) << "run ci/docs";
  }
  for (const auto& choice : rows_of(table, R"re(Named\{[\w:]+, "(\w+)"\})re")) EXPECT_THAT(page, HasSubstr("`" + choice[0] + "`")) << "run ci/docs";
}

TEST(Docs, ExplainEveryExitCode) {
  const auto codes = rows_of(text_of("harness/record/verdict.h"), R"(kExit\w+ = (\d+))");
  EXPECT_EQ(codes.size(), 8U);
  for (const char* page : {"README.md", "docs/architecture.md"})
    for (const auto& code : codes) EXPECT_THAT(text_of(page), HasSubstr("\n| " + code[0] + " | ")) << page;
}

TEST(Docs, NameEveryVerdictTapAndModule) {
  const std::string page = text_of("docs/architecture.md");
  for (const auto& verdict : rows_of(text_of("harness/record/verdict.cpp"), R"re(VerdictRow\{Verdict::k\w+, "(\w+)")re"))
    EXPECT_THAT(page, HasSubstr("`" + verdict[0] + "`"));
  for (const auto& tap : rows_of(text_of("harness/trace/tap_points.cpp"), R"re(TapPoint\{"([^"]+)")re")) EXPECT_THAT(page, HasSubstr("| `" + tap[0] + "` |"));
  for (const Module& module : modules())
    EXPECT_THAT(page, HasSubstr("| " + std::to_string(module.level) + " | `" + std::string(module.name) + "` |")) << module.name;
}

TEST(Docs, NameEveryCheckAndFaultInArchitecture) {
  const std::string page = text_of("docs/architecture.md");
  for (const SourceFile& file : cpp_files()) {
    if (!is_check(file.path) && !is_fault(file.path)) continue;
    EXPECT_THAT(page, HasSubstr("`" + stem(file.path) + "`"));
  }
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
