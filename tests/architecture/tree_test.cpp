// The tree keeps its rules.
#include <gmock/gmock.h>

#include "tests/architecture/layers.h"
#include "tests/architecture/source_text.h"
#include "tests/architecture/source_tree.h"

namespace moecheck::architecture {
namespace {

using testing::IsEmpty;

template <typename Rule>
std::vector<std::string> broken(const std::vector<SourceFile>& files, Rule rule) {
  std::vector<std::string> lines;
  for (const SourceFile& file : files)
    for (const Violation& violation : rule(file)) lines.push_back(violation.text());
  return lines;
}

TEST(Tree, IsFoundWhole) {
  EXPECT_GT(cpp_files().size(), 150U);
  std::size_t num_functions = 0;
  for (const SourceFile& file : cpp_files()) num_functions += functions_of(file.text).size();
  EXPECT_GT(num_functions, 1500U);
  for (const Module& module : modules()) {
    const auto is_here = [&](const SourceFile& file) { return module_of(file.path) == module.name; };
    EXPECT_TRUE(std::ranges::any_of(cpp_files(), is_here)) << module.name;
  }
}

TEST(Tree, IncludesOnlyWhatTheLevelsAllow) { EXPECT_THAT(broken(cpp_files(), check_layers), IsEmpty()); }

TEST(Tree, KeepsEachLibraryInItsFolder) { EXPECT_THAT(broken(cpp_files(), check_third_party), IsEmpty()); }

TEST(Tree, KeepsFilesAndFunctionsShort) { EXPECT_THAT(broken(cpp_files(), check_sizes), IsEmpty()); }

TEST(Tree, HasNoUsingNamespaceInHeadersNoExitNoCatchAll) { EXPECT_THAT(broken(cpp_files(), check_forbidden_code), IsEmpty()); }

TEST(Tree, NamesFilesForWhatIsInThem) { EXPECT_THAT(broken(source_tree(), check_file_name), IsEmpty()); }

TEST(Tree, NamesNoMachine) { EXPECT_THAT(broken(source_tree(), check_machine_paths), IsEmpty()); }

TEST(Tree, BeginsEveryCheckWithWhatItProves) { EXPECT_THAT(broken(cpp_files(), check_doc_block), IsEmpty()); }

TEST(Tree, RegistersEveryFaultUnderTheNameOfItsFile) { EXPECT_THAT(broken(cpp_files(), check_fault), IsEmpty()); }

}  // namespace
}  // namespace moecheck::architecture
