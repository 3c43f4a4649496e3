#include "tests/architecture/source_text.h"

#include <gmock/gmock.h>

namespace moecheck::architecture {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::vector<std::string> function_names(std::string_view text) {
  std::vector<std::string> names;
  for (const Function& function : functions_of(text)) names.push_back(function.name);
  return names;
}

TEST(CodeOnly, BlanksCommentsAndLiteralsAndKeepsLines) {
  EXPECT_EQ(code_only("a; // b\nc(\"d\"); /* e\nf */ g"), "a;     \nc(\" \");     \n     g");
}

TEST(CodeOnly, DoesNotEndALiteralAtAnEscapedQuote) { EXPECT_EQ(code_only(R"(f("a\"b{", 'c', '\'');)"), R"(f("     ", ' ', '  ');)"); }

TEST(CodeOnly, ReadsRawStringsToTheirOwnEnd) { EXPECT_EQ(code_only("x = R\"y(\" // { )y\" + z;"), "x = R            \" + z;"); }

TEST(CodeOnly, TakesTheMarkBetweenDigitsForNoQuote) { EXPECT_EQ(code_only("int n = 20'000; f('x');"), "int n = 20'000; f(' ');"); }

TEST(IncludesOf, FindsOursAndTheirsWithTheirLines) {
  const auto found = includes_of("// c\n#include <Eigen/Core>\n\n#  include \"harness/base/dtype.h\"\n");
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].path, "Eigen/Core");
  EXPECT_FALSE(found[0].is_quoted);
  EXPECT_EQ(found[1].path, "harness/base/dtype.h");
  EXPECT_TRUE(found[1].is_quoted);
  EXPECT_EQ(found[1].line, 4);
}

TEST(FunctionsOf, CountsFromTheHeadToTheClosingBrace) {
  const auto found = functions_of("namespace a {\n\nint f(int x,\n      int y) {\n  return x;\n}\n\n}  // namespace a\n");
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].name, "f");
  EXPECT_EQ(found[0].line, 3);
  EXPECT_EQ(found[0].num_lines, 4);
}

TEST(FunctionsOf, FindsMethodsConstructorsOperatorsAndTests) {
  EXPECT_THAT(function_names("class A final : public B<int> {\n public:\n  explicit A(int x) : x_(x), y_{x} { go(); }\n  ~A() {}\n"
                             "  A& operator=(A&& o) noexcept {\n    return *this;\n  }\n  bool operator==(const A&) const = default;\n"
                             " private:\n  int x_ = 0;\n  std::vector<int> y_ = {1, 2};\n};\n"
                             "base::Result<Mesh> Mesh::parse(std::string_view text) { return {}; }\nTEST(Suite, Says) { f(); }\n"
                             "template <typename T = int>\nT twice(T t) { return t + t; }\n"),
              ElementsAre("A", "~A", "operator=", "Mesh::parse", "TEST", "twice"));
}

TEST(FunctionsOf, TakesNoInitialiserTypeMacroArgumentOrEnumForAFunction) {
  EXPECT_THAT(function_names("constexpr std::array kTaps = {\n  Tap{\"a\", f()},\n};\nenum class E { kA, kB };\nstruct P { int x = g(1); };\n"
                             "REGISTER({\"a\", [](int x) { return x; }});\nconst auto kF = [](int x) { return x; };\n"
                             "#define LOOP(x) \\\n  do { x; } while (false)\nextern \"C\" {\n}\n"),
              IsEmpty());
}

TEST(FunctionsOf, GivesLambdasToTheFunctionAroundThem) {
  const auto found = functions_of(
      "void f() {\n  const auto g = [&](int x) {\n    if (x) { h(); }\n  };\n  struct Local { void k() {} };\n}\nvoid m() {}\n");
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].num_lines, 6);
  EXPECT_EQ(found[1].name, "m");
}

TEST(FunctionsOf, IsNotMisledByBracesInTextAndComments) {
  const auto found = functions_of("void f() {\n  g(\"}\");  // }\n  g('{');\n}\nvoid h() {}\n");
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].num_lines, 4);
}

TEST(StringLiterals, JoinsNeighboursAndUnescapes) {
  EXPECT_THAT(string_literals("{\"a\", \"b \"\n \"c\", f(\"d\\\"e\")}"), ElementsAre("a", "b c", "d\"e"));
}

TEST(NumLines, CountsALastLineWithoutItsEnd) {
  EXPECT_EQ(num_lines("a\nb\n"), 2);
  EXPECT_EQ(num_lines("a\nb"), 2);
  EXPECT_EQ(num_lines(""), 0);
}

}  // namespace
}  // namespace moecheck::architecture
