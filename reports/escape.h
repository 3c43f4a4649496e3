// Text of a record made safe to show. Names and messages come from a subject and can hold anything: markup, terminal
// escapes, bytes that are no UTF-8. Each renderer passes every string of the record through one of these.
#pragma once

#include <string>
#include <string_view>

namespace moecheck::reports {

// Valid UTF-8 without control characters: what a terminal or XML 1.0 must not be given is spelled out, "\x1b" for a byte,
// "\u{202e}" for a code point (bidirectional overrides included: they let a name read as another). A tab becomes a blank.
std::string printable_line(std::string_view text);  // a newline is spelled out too
std::string printable_text(std::string_view text);  // keeps newlines

// For element content and for quoted attributes alike. Newlines are kept.
std::string escape_xml(std::string_view text);
std::string escape_xml_line(std::string_view text);  // a newline is spelled out

// One line of GitHub-flavoured Markdown, also inside a table cell.
std::string escape_markdown(std::string_view text);

// A fenced block whose fence is longer than any run of backticks inside; ends with a newline.
std::string markdown_code_block(std::string_view text);

}  // namespace moecheck::reports
