// Each rule has a sample that breaks it and one that does not.
#include "tests/architecture/rules.h"

#include <gmock/gmock.h>

#include "tests/architecture/layers.h"

namespace moecheck::architecture {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

std::string lines(int count, const std::string& line = "int x;\n") {
  std::string text;
  for (int i = 0; i < count; ++i) text += line;
  return text;
}

std::string function_of(int num_lines) { return "void f() {\n" + lines(num_lines - 2, "  g();\n") + "}\n"; }

TEST(ModuleTable, LetsEachModuleIncludeLowerLevelsOnly) {
  for (const Module& module : modules())
    for (const std::string& below : allowed_includes(module.name))
      EXPECT_LT(find_module(below)->level, module.level) << module.name << " includes " << below;
}

TEST(ModuleTable, KeepsReferenceAndImplementationsApart) {
  EXPECT_FALSE(allowed_includes("reference").contains("parallel_impls"));
  for (const char* judge : {"reference", "check", "tolerance", "scenario", "reports", "record", "driver"})
    EXPECT_FALSE(allowed_includes("parallel_impls").contains(judge)) << judge;
  for (const Module& module : modules()) EXPECT_FALSE(allowed_includes(module.name).contains("parallel_impls")) << module.name;
}

TEST(ModuleTable, AllowsWhatAnAllowedModuleAllows) {
  EXPECT_TRUE(allowed_includes("cli").contains("launch"));
  EXPECT_TRUE(allowed_includes("driver").contains("record"));
  EXPECT_FALSE(allowed_includes("record").contains("model"));
}

TEST(ModuleOf, IsTheFolder) {
  EXPECT_EQ(module_of("harness/check/rules/a.cpp"), "check");
  EXPECT_EQ(module_of("parallel_impls/impls/b/b.cpp"), "parallel_impls");
  EXPECT_EQ(module_of("tests/unit/check/c.cpp"), "");
  EXPECT_EQ(module_of("fault.h"), "");
}

TEST(Layers, RefuseAnIncludeOfAHigherLevel) {
  const auto found = check_layers({"harness/cases/case.cpp", "#include \"harness/cases/case.h\"\n#include \"harness/driver/pipeline.h\"\n"});
  ASSERT_THAT(found, SizeIs(1));
  EXPECT_EQ(found[0].line, 2);
  EXPECT_THAT(found[0].what, HasSubstr("cases may not include driver"));
}

TEST(Layers, RefuseANeighbourOfTheSameLevel) {
  EXPECT_THAT(check_layers({"harness/scenario/a.cpp", "#include \"harness/check/judge.h\"\n"}), SizeIs(1));
}

TEST(Layers, RefuseThatReferenceAndImplementationsMeet) {
  EXPECT_THAT(check_layers({"reference/router.cpp", "#include \"parallel_impls/layer/router.h\"\n"}), SizeIs(1));
  EXPECT_THAT(check_layers({"parallel_impls/layer/router.cpp", "#include \"reference/router.h\"\n"}), SizeIs(1));
}

TEST(Layers, RefuseAModuleAndAPathThatNobodyKnows) {
  EXPECT_THAT(check_layers({"harness/extras/a.cpp", ""}), SizeIs(1));
  EXPECT_THAT(check_layers({"harness/cases/case.cpp", "#include \"case.h\"\n"}), SizeIs(1));
}

TEST(Layers, AllowWhatTheTableAllowsAndAnythingInTests) {
  const std::string own_and_lower = "#include \"harness/check/judge.h\"\n#include <vector>\n#include \"harness/base/json.h\"\n";
  EXPECT_THAT(check_layers({"harness/check/judge.cpp", own_and_lower}), IsEmpty());
  EXPECT_THAT(check_layers({"tests/unit/cases/a_test.cpp", "#include \"harness/cli/filter.h\"\n"}), IsEmpty());
}

TEST(ThirdParty, StaysInItsFolder) {
  EXPECT_THAT(check_third_party({"harness/check/a.cpp", "#include <Eigen/Core>\n"}), SizeIs(1));
  EXPECT_THAT(check_third_party({"harness/driver/a.cpp", "#include <torch/all.h>\n#include <ATen/ATen.h>\n#include <c10/core/Device.h>\n"}), SizeIs(3));
  EXPECT_THAT(check_third_party({"harness/cases/a.cpp", "#include <yaml-cpp/parser.h>\n"}), SizeIs(1));
  EXPECT_THAT(check_third_party({"harness/driver/a.cpp", "#include <boost/process.hpp>\n"}), SizeIs(1));
  EXPECT_THAT(check_third_party({"harness/driver/a.cpp", "#include <CLI/CLI.hpp>\n"}), SizeIs(1));
  EXPECT_THAT(check_third_party({"reference/a.h", "#include <gtest/gtest.h>\n"}), SizeIs(1));
  EXPECT_THAT(check_third_party({"reference/a.h", "#include <Eigen/Core>\n#include <fmt/format.h>\n"}), IsEmpty());
}

TEST(Sizes, LimitHeadersSourcesChecksAndFaults) {
  EXPECT_THAT(check_sizes({"harness/base/a.h", lines(201)}), SizeIs(1));
  EXPECT_THAT(check_sizes({"harness/base/a.h", lines(200)}), IsEmpty());
  EXPECT_THAT(check_sizes({"harness/base/a.cpp", lines(401)}), SizeIs(1));
  EXPECT_THAT(check_sizes({"harness/base/a.cpp", lines(400)}), IsEmpty());
  EXPECT_THAT(check_sizes({"harness/check/rules/a.cpp", lines(151)}), SizeIs(1));
  EXPECT_THAT(check_sizes({"parallel_impls/faults/a.cpp", lines(151)}), SizeIs(1));
  EXPECT_THAT(check_sizes({"parallel_impls/faults/a.cpp", lines(150)}), IsEmpty());
}

TEST(Sizes, LimitFunctions) {
  const auto found = check_sizes({"harness/base/a.cpp", "\n" + function_of(61)});
  ASSERT_THAT(found, SizeIs(1));
  EXPECT_EQ(found[0].line, 2);
  EXPECT_THAT(found[0].what, HasSubstr("function f has 61 lines"));
  EXPECT_THAT(check_sizes({"harness/base/a.cpp", function_of(60)}), IsEmpty());
}

TEST(ForbiddenCode, KeepsUsingNamespaceOutOfHeaders) {
  EXPECT_THAT(check_forbidden_code({"harness/base/a.h", "using namespace std;\n"}), SizeIs(1));
  EXPECT_THAT(check_forbidden_code({"harness/base/a.h", "// using namespace std;\nusing std::string;\n"}), IsEmpty());
}

TEST(ForbiddenCode, KeepsExitInFilesOfMain) {
  EXPECT_THAT(check_forbidden_code({"harness/cli/cli.cpp", "void f() { std::exit(1); }\n"}), SizeIs(1));
  EXPECT_THAT(check_forbidden_code({"harness/cli/cli.cpp", "void f() {\n  exit (1);\n}\n"}), SizeIs(1));
  EXPECT_THAT(check_forbidden_code({"harness/cli/main/main.cpp", "void f() { std::exit(1); }\nint main() { f(); }\n"}), IsEmpty());
  EXPECT_THAT(check_forbidden_code({"harness/cli/cli.cpp", "int f() { _exit(1); return app.exit(e); }\n"}), IsEmpty());
}

TEST(ForbiddenCode, KeepsCatchAllInRankMain) {
  const std::string code = "void f() {\n  try {\n    g();\n  } catch (...) {\n  }\n}\n";
  const auto found = check_forbidden_code({"harness/launch/a.cpp", code});
  ASSERT_THAT(found, SizeIs(1));
  EXPECT_EQ(found[0].line, 4);
  EXPECT_THAT(check_forbidden_code({"parallel_impls/main/rank_main.cpp", code}), IsEmpty());
}

TEST(FileNames, SayWhatTheFileIsFor) {
  for (const char* path : {"harness/base/string_util.h", "tests/helpers/a.cpp", "ci/misc.py", "harness/launch/rank_manager.cpp", "a/utils.cpp"})
    EXPECT_THAT(check_file_name({path, ""}), SizeIs(1)) << path;
  EXPECT_THAT(check_file_name({"harness/driver/utilisation.cpp", ""}), IsEmpty());
}

TEST(MachinePaths, AreFoundInCodeAndText) {
  const std::string home = std::string("/ho") + "me/someone/src";
  EXPECT_THAT(check_machine_paths({"docs/a.md", "see\n`" + home + "`\n"}), SizeIs(1));
  EXPECT_THAT(check_machine_paths({"tests/a.cpp", "open(\"" + home + "\");\n"}), SizeIs(1));
  EXPECT_THAT(check_machine_paths({"docs/a.md", "/dev/shm, tests/work/x, https://host/home/page\n"}), IsEmpty());
}

TEST(DocBlock, IsReadAcrossLines) {
  const CheckDoc doc = doc_block(
      "// Proves:       one thing\n//               and another.\n// Cannot prove: the rest.\n"
      "// Reads:        a, b      Applies when: always\n#include <x>\n");
  EXPECT_EQ(doc.proves, "one thing and another");
  EXPECT_EQ(doc.cannot_prove, "the rest");
  EXPECT_EQ(doc.reads, "a, b");
  EXPECT_EQ(doc.applies_when, "always");
}

TEST(DocBlock, IsDemandedOfEveryCheck) {
  const std::string whole = "// Proves: a.\n// Cannot prove: b.\n// Reads: c  Applies when: d\n";
  EXPECT_THAT(check_doc_block({"harness/check/rules/a.cpp", whole}), IsEmpty());
  EXPECT_THAT(check_doc_block({"harness/check/rules/a.cpp", "#include <vector>\n" + whole}), SizeIs(1));
  EXPECT_THAT(check_doc_block({"harness/check/rules/a.cpp", "// Proves: a.\n// Reads: c  Applies when: d\n"}), SizeIs(1));
  EXPECT_THAT(check_doc_block({"harness/check/rules/a.cpp", "// Proves:\n// Cannot prove: b.\n// Reads: c  Applies when: d\n"}), SizeIs(1));
  EXPECT_THAT(check_doc_block({"harness/check/judge.cpp", ""}), IsEmpty());
}

TEST(Faults, RegisterThemselvesUnderTheNameOfTheirFile) {
  EXPECT_THAT(check_fault({"parallel_impls/faults/a.cpp", "MOECHECK_REGISTER_FAULT({\n    {\"a\", \"S01\"},\n});\n"}), IsEmpty());
  EXPECT_THAT(check_fault({"parallel_impls/faults/a.cpp", "int x;\n"}), SizeIs(1));
  EXPECT_THAT(check_fault({"parallel_impls/faults/a.cpp", "MOECHECK_REGISTER_FAULT({\n    {\"b\", \"S01\"},\n});\n"}), SizeIs(1));
  EXPECT_THAT(check_fault({"parallel_impls/faults/fault.cpp", ""}), IsEmpty());
}

}  // namespace
}  // namespace moecheck::architecture
