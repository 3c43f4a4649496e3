#include "reports/escape.h"

#include <gtest/gtest.h>

namespace moecheck::reports {
namespace {

using std::string_literals::operator""s;

TEST(PrintableLine, KeepsOrdinaryTextInAnyScript) {
  const std::string text = "w_gate_up_EGD = 3 × 10⁻³ · 専門家 · 🙂";
  EXPECT_EQ(printable_line(text), text);
}

TEST(PrintableLine, SpellsOutControlCharacters) {
  EXPECT_EQ(printable_line("a\x1b[31mb\x07"), "a\\x1b[31mb\\x07");
  EXPECT_EQ(printable_line("a\0b\x7f"s), "a\\x00b\\x7f");
  EXPECT_EQ(printable_line("a\nb\r\tc"), "a\\nb\\r c");
  EXPECT_EQ(printable_line("\xc2\x9b" "2J"), "\\u{9b}2J") << "C1 controls are escape sequences of one character";
}

TEST(PrintableLine, SpellsOutBytesThatAreNoUtf8) {
  EXPECT_EQ(printable_line("\xff"), "\\xff");
  EXPECT_EQ(printable_line("\xc0\xaf"), "\\xc0\\xaf") << "overlong";
  EXPECT_EQ(printable_line("\xe0\x80\xaf"), "\\xe0\\x80\\xaf") << "overlong";
  EXPECT_EQ(printable_line("\xed\xa0\x80"), "\\xed\\xa0\\x80") << "surrogate";
  EXPECT_EQ(printable_line("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80") << "above U+10FFFF";
  EXPECT_EQ(printable_line("ab\xe2\x82"), "ab\\xe2\\x82") << "cut short";
  EXPECT_EQ(printable_line("\x80" "a"), "\\x80" "a") << "a continuation without a lead";
}

TEST(PrintableLine, SpellsOutWhatReordersOrHidesText) {
  EXPECT_EQ(printable_line("\xe2\x80\xaegnp"), "\\u{202e}gnp");
  EXPECT_EQ(printable_line("\xe2\x80\xa8"), "\\u{2028}");
  EXPECT_EQ(printable_line("\xef\xbb\xbf"), "\\u{feff}");
  EXPECT_EQ(printable_line("\xef\xbf\xbe\xef\xbf\xbf"), "\\u{fffe}\\u{ffff}") << "forbidden in XML 1.0";
}

TEST(PrintableText, KeepsNewlinesAndDropsTheReturnBeforeThem) {
  EXPECT_EQ(printable_text("a\r\nb\n\nc\rd"), "a\nb\n\nc\\rd");
  EXPECT_EQ(printable_text(""), "");
  EXPECT_EQ(printable_text("a\n"), "a\n");
}

TEST(EscapeXml, LeavesNoMarkup) {
  EXPECT_EQ(escape_xml("<a href=\"x\">'&'</a>"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/a&gt;");
  EXPECT_EQ(escape_xml("]]> &amp;"), "]]&gt; &amp;amp;");
  EXPECT_EQ(escape_xml("\x01"), "\\x01");
}

TEST(EscapeMarkdown, LeavesNoMarkup) {
  EXPECT_EQ(escape_markdown("a|b"), "a\\|b");
  EXPECT_EQ(escape_markdown("`code` *x* [l](u)"), "\\`code\\` \\*x\\* \\[l\\](u)");
  EXPECT_EQ(escape_markdown("<script>&amp;"), "&lt;script\\>&amp;amp;");
  EXPECT_EQ(escape_markdown("a\nb"), "a\\\\nb") << "one line stays one line";
}

TEST(EscapeMarkdown, LeavesUnderscoresInsideNamesReadable) {
  EXPECT_EQ(escape_markdown("ep_allreduce"), "ep_allreduce");
  EXPECT_EQ(escape_markdown("_x_ a__b"), "\\_x\\_ a\\_\\_b");
}

TEST(MarkdownCodeBlock, HasAFenceThatItsContentCannotClose) {
  EXPECT_EQ(markdown_code_block("plain"), "```\nplain\n```\n");
  EXPECT_EQ(markdown_code_block("a\n````\nb"), "`````\na\n````\nb\n`````\n");
}

}  // namespace
}  // namespace moecheck::reports
