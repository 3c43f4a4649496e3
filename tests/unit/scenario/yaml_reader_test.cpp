#include "harness/scenario/yaml_reader.h"

#include <gmock/gmock.h>

#include "tests/unit/scenario/folders.h"

namespace moecheck::scenario {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

YamlNode read(std::string text) { return parse_yaml("a.yaml", std::move(text)).value().root; }

base::Error refusal(std::string text) {
  auto parsed = parse_yaml("a.yaml", std::move(text));
  return parsed ? base::Error{base::ErrorCode::kIo, "was accepted", ""} : parsed.error();
}

TEST(YamlReader, KeepsLineAndColumnOfEveryNode) {
  const YamlNode root = read("# comment\nname: value\nlist:\n  - \"x\"\n  - {k: [1]}\n");
  ASSERT_EQ(root.entries.size(), 2U);
  EXPECT_EQ(root.spot.line, 2U);
  EXPECT_EQ(root.entries[0].key.spot.column, 1U);
  EXPECT_EQ(root.entries[0].value.spot.column, 7U);
  EXPECT_EQ(root.entries[0].value.spot.width, 5U);
  const YamlNode& list = root.entries[1].value;
  ASSERT_EQ(list.items.size(), 2U);
  EXPECT_EQ(list.items[0].spot.line, 4U);
  EXPECT_EQ(list.items[0].spot.column, 5U);
  EXPECT_TRUE(list.items[0].is_quoted);
  const YamlNode& one = list.items[1].entries[0].value.items[0];
  EXPECT_EQ(one.spot.line, 5U);
  EXPECT_EQ(one.spot.column, 10U);
  EXPECT_FALSE(one.is_quoted);
}

TEST(YamlReader, CountsColumnsInCharacters) {
  const YamlNode root = read("name: {ä: \"ö\", b: c}\n");
  EXPECT_EQ(root.entries[0].value.entries[0].value.spot.column, 11U);
  EXPECT_EQ(root.entries[0].value.entries[1].key.spot.column, 16U);
}

TEST(YamlReader, ConvertsNothing) {
  for (const char* text : {"no", "yes", "on", "off", "true", "010", "0x10", "1e3", "1_000", "1:30", "+5", ".inf", "2024-01-01"}) {
    const YamlNode root = read(std::string("k: ") + text + "\n");
    EXPECT_EQ(root.entries[0].value.kind, YamlKind::kScalar);
    EXPECT_EQ(root.entries[0].value.text, text);
  }
}

TEST(YamlReader, AnAbsentValueStandsAtItsKey) {
  const YamlNode root = read("first:\nsecond: ~\n");
  EXPECT_EQ(root.entries[0].value.kind, YamlKind::kNull);
  EXPECT_EQ(root.entries[0].value.spot.line, 1U);
  EXPECT_EQ(root.entries[0].value.spot.column, 1U);
  EXPECT_EQ(root.entries[1].value.kind, YamlKind::kNull);
  EXPECT_EQ(root.entries[1].value.spot.column, 9U);
}

TEST(YamlReader, AnAbsentValueIsNotTakenForTheKeyBelowIt) {
  EXPECT_EQ(read("first:\nname: x\n").entries[0].value.spot.line, 1U);
  EXPECT_EQ(read("first:\nnull_key: x\n").entries[0].value.spot.line, 1U);
  EXPECT_EQ(read("first:\n  null\n").entries[0].value.spot.line, 2U);
}

TEST(YamlReader, AcceptsWindowsLineEndsAndABeginMark) {
  const YamlNode root = read("---\r\na: 1\r\nb: 2\r\n");
  EXPECT_EQ(root.entries[1].value.text, "2");
  EXPECT_EQ(root.entries[1].key.spot.line, 3U);
}

struct Refused {
  std::string text;
  const char* where;
  const char* why;
};

class RefusedYaml : public testing::TestWithParam<Refused> {};

TEST_P(RefusedYaml, SaysWhereAndWhy) {
  const base::Error error = refusal(GetParam().text);
  EXPECT_EQ(error.code, base::ErrorCode::kUsage);
  EXPECT_EQ(error.where, GetParam().where) << error.message;
  EXPECT_THAT(error.message, StartsWith(GetParam().why));
}

INSTANTIATE_TEST_SUITE_P(
    Structure, RefusedYaml,
    testing::Values(Refused{"a: 1\nb: 2\na: 3\n", "a.yaml:3:1", "duplicate key 'a'; it stands on line 1 already"},
                    Refused{"a: {x: 1, \"x\": 2}\n", "a.yaml:1:11", "duplicate key 'x'"},
                    Refused{"a: 1\n<<: {b: 2}\n", "a.yaml:2:1", "merge keys (<<) are not supported"},
                    Refused{"a: &x 1\n", "a.yaml:1:4", "anchors and aliases are not supported"},
                    Refused{"a: &x [1]\n", "a.yaml:1:4", "anchors and aliases are not supported"},
                    Refused{"a: &x\n", "a.yaml:1:4", "anchors and aliases are not supported"},
                    Refused{"a: !!int 1\n", "a.yaml:1:4", "YAML tags are not supported"},
                    Refused{"a: !mine {b: 1}\n", "a.yaml:1:4", "YAML tags are not supported"},
                    Refused{"[a]: b\n", "a.yaml:1:1", "a key must be text"}, Refused{"~: b\n", "a.yaml:1:1", "a key must be text"},
                    Refused{"a: 1\n---\nb: 1\n", "a.yaml:2:1", "content after the end of the document"},
                    Refused{"- a\nb: c\n", "a.yaml:2:1", "content after the end of the document"},
                    Refused{"", "a.yaml:1:1", "the file is empty"}, Refused{"# nothing\n", "a.yaml:1:1", "the file is empty"}));

INSTANTIATE_TEST_SUITE_P(Syntax, RefusedYaml,
                         testing::Values(Refused{"a: [1, 2\nb: 3\n", "a.yaml:2:2", "not valid YAML: end of sequence flow not found"},
                                         Refused{"a: b: c\n", "a.yaml:1:5", "not valid YAML: illegal map value"},
                                         Refused{"a: \"x", "a.yaml:1:5", "not valid YAML: illegal EOF in scalar"},
                                         Refused{"a: 1\n]\n", "a.yaml:2:1", "not valid YAML: illegal flow end"},
                                         Refused{"a: @x\n", "a.yaml:1:4", "not valid YAML: unknown token"},
                                         Refused{"a: *x\n", "a.yaml:1:4", "not valid YAML: the referenced anchor is not defined"},
                                         Refused{"%YAML 1.2\n---\na: 1\n", "a.yaml:1:1", "YAML directives (%) are not supported"},
                                         Refused{"# x\n%FOO\n---\na: 1\n", "a.yaml:2:1", "YAML directives (%) are not supported"}));

INSTANTIATE_TEST_SUITE_P(
    Bytes, RefusedYaml,
    testing::Values(Refused{"a:\n\tb: 1\n", "a.yaml:2:1", "tab character; indent"}, Refused{"a: 1\t# x\n", "a.yaml:1:5", "tab character"},
                    Refused{std::string("a: \0b\n", 6), "a.yaml:1:4", "control character 0x00"},
                    Refused{"a: \x1b[31mred\n", "a.yaml:1:4", "control character 0x1b"},
                    Refused{"a: 1\rb: 2\n", "a.yaml:1:5", "control character 0x0d"},
                    Refused{"\xEF\xBB\xBF" "a: 1\n", "a.yaml:1:1", "byte order mark"},
                    Refused{"a: 1\nb: \xff\n", "a.yaml:2:4", "byte 0xff is not UTF-8"},
                    Refused{"a: \xC0\xAF\n", "a.yaml:1:4", "byte 0xc0 is not UTF-8"},        // overlong
                    Refused{"a: \xED\xA0\x80\n", "a.yaml:1:4", "byte 0xed is not UTF-8"},    // surrogate
                    Refused{"a: \xF4\x90\x80\x80\n", "a.yaml:1:4", "byte 0xf4 is not UTF-8"},  // beyond U+10FFFF
                    Refused{"a: \xE2\x82", "a.yaml:1:4", "byte 0xe2 is not UTF-8"},          // cut
                    Refused{"a: \"\\0\"\n", "a.yaml:1:4", "text with a control character"}));

TEST(YamlReader, RefusesAFileThatIsTooLarge) {
  const base::Error error = refusal("a: " + std::string(kMaxYamlBytes, 'x'));
  EXPECT_EQ(error.where, "a.yaml:1:1");
  EXPECT_THAT(error.message, HasSubstr("at most 262144 are read"));
}

TEST(YamlReader, RefusesTooManyNodes) {
  std::string text = "a:\n";
  for (std::size_t i = 0; i < kMaxYamlNodes; ++i) text += "- x\n";
  const base::Error error = refusal(text);
  EXPECT_EQ(error.where, "a.yaml:9999:3");  // root, key and list come first
  EXPECT_THAT(error.message, StartsWith("more than 10000 keys and values"));
}

TEST(YamlReader, RefusesTooDeepNestingOfEveryKind) {
  for (const char* opening : {"[", "{a: ", "- ", "? "}) {
    std::string text;
    for (int i = 0; i < 20'000; ++i) text += opening;
    EXPECT_THAT(refusal(text).message, StartsWith("nested deeper than 16 levels")) << opening;
  }
}

TEST(YamlReader, AcceptsTheDeepestNestingAllowed) {
  EXPECT_TRUE(parse_yaml("a.yaml", std::string(kMaxYamlDepth, '[') + std::string(kMaxYamlDepth, ']')));
}

TEST(YamlReader, RefusesNestedAliasesBeforeTheyGrow) {
  std::string text = "a0: &a0 [x, x]\n";
  for (int i = 1; i < 40; ++i)
    text += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [*a" + std::to_string(i - 1) + ", *a" + std::to_string(i - 1) + "]\n";
  EXPECT_EQ(refusal(text).where, "a.yaml:1:5");
}

TEST(Source, UnderlinesTheSpotBelowTheLine) {
  const Source source{"a.yaml", "one: 1\n  expets_backend: [eager]\n"};
  const base::Error error = source.error_at({2, 3, 14}, "unknown key");
  EXPECT_EQ(error.text(),
            "a.yaml:2:3: unknown key\n"
            "  2 |   expets_backend: [eager]\n"
            "    |   ^~~~~~~~~~~~~~");
}

TEST(Source, CutsTheUnderlineAtTheEndOfTheLine) {
  EXPECT_THAT((Source{"a.yaml", "abc\n"}.error_at({1, 2, 50}, "m").message), EndsWith("\n    |  ^~"));
}

TEST(Source, PlacesTheCaretByCharacters) {
  EXPECT_THAT((Source{"a.yaml", "äö: x\n"}.error_at({1, 5, 1}, "m").message), EndsWith("1 | äö: x\n    |     ^"));
}

TEST(Source, ShowsAWindowOfALongLine) {
  const Source source{"a.yaml", std::string(500, 'x') + "HERE" + std::string(500, 'x')};
  const base::Error error = source.error_at({1, 501, 4}, "m");
  EXPECT_EQ(error.where, "a.yaml:1:501");
  EXPECT_LT(error.message.size(), 300U);
  // Message, line and caret are three lines; the caret is below the word.
  const auto line_begin = error.message.find('\n') + 1;
  const auto caret_begin = error.message.rfind('\n') + 1;
  EXPECT_EQ(error.message.find("HERE") - line_begin, error.message.find("^~~~") - caret_begin);
}

TEST(Source, SurvivesASpotBeyondTheText) { EXPECT_THAT((Source{"a.yaml", "a"}.error_at({9, 9, 9}, "m").message), HasSubstr("^")); }

using YamlFile = FolderTest;

TEST_F(YamlFile, MissingNamesThePathAndItsNearestNeighbour) {
  write("tiny.yaml", "a: 1\n");
  const auto missing = folder_ / "tinny.yaml";
  const auto error = read_yaml(missing).error();
  EXPECT_EQ(error.code, base::ErrorCode::kUsage);
  EXPECT_EQ(error.where, missing.string());
  EXPECT_EQ(error.message, "no such file; did you mean '" + (folder_ / "tiny.yaml").string() + "'?");
}

TEST_F(YamlFile, MissingFolderIsReportedToo) { EXPECT_EQ(read_yaml(folder_ / "none" / "a.yaml").error().message, "no such file"); }

TEST_F(YamlFile, FolderIsNoFile) { EXPECT_THAT(read_yaml(folder_).error().message, HasSubstr("is a folder")); }

TEST_F(YamlFile, TooLargeIsRefusedWithoutReadingIt) {
  const auto path = write("huge.yaml", std::string(kMaxYamlBytes + 1, '#'));
  EXPECT_THAT(read_yaml(path).error().message, HasSubstr("at most"));
}

}  // namespace
}  // namespace moecheck::scenario
