#include "tests/architecture/source_text.h"

#include <algorithm>
#include <cctype>
#include <regex>

namespace moecheck::architecture {
namespace {

bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }
bool is_blank(char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; }

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && is_blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_blank(text.back())) text.remove_suffix(1);
  return text;
}

// End of the comment or literal that begins at `at`; `at` itself if none begins there.
std::size_t end_of_opaque(std::string_view text, std::size_t at) {
  const auto after = [&](std::size_t found, std::size_t size) { return std::min(found, text.size() - size) + size; };
  if (text.substr(at, 2) == "//") return std::min(text.find('\n', at), text.size());
  if (text.substr(at, 2) == "/*") return after(text.find("*/", at + 2), 2);
  if (text.substr(at, 2) == "R\"" && (at == 0 || !is_word(text[at - 1]))) {
    const auto open = text.find('(', at);
    if (open == std::string_view::npos) return text.size();
    const std::string close = ")" + std::string(text.substr(at + 2, open - at - 2)) + "\"";
    return after(text.find(close, open), close.size());
  }
  const char quote = text[at];
  // Between digits, as in 20'000, it separates them.
  if (quote != '"' && (quote != '\'' || (at > 0 && is_word(text[at - 1])))) return at;
  std::size_t end = at + 1;
  while (end < text.size() && text[end] != quote && text[end] != '\n') end += text[end] == '\\' ? 2 : 1;
  return std::min(end + 1, text.size());
}

std::string without_directives(std::string code) {
  bool is_directive = false, is_line_start = true;
  for (std::size_t i = 0; i < code.size(); ++i) {
    if (code[i] == '\n') {
      is_directive = is_directive && i > 0 && code[i - 1] == '\\';
      is_line_start = true;
      if (is_directive) continue;
    } else if (is_line_start && !is_blank(code[i])) {
      is_directive = is_directive || code[i] == '#';
      is_line_start = false;
    }
    if (is_directive && code[i] != '\n' && code[i] != '\\') code[i] = ' ';
  }
  std::ranges::replace(code, '\\', ' ');
  return code;
}

enum class Scope { kOpen, kBody, kOther };   // namespace or type; function body; anything else in braces

// Position of the first '(' of a head, if no '=' comes before it; operators have one in their name.
std::size_t parameter_list(std::string_view head) {
  const std::size_t op = head.find("operator");
  const std::size_t from = op == std::string_view::npos ? 0 : head.find_first_not_of("=!<>+-*/[]&|", op + 8);
  const std::size_t paren = head.find('(', from == std::string_view::npos ? 0 : from);
  const std::size_t equals = head.find('=', from == std::string_view::npos ? 0 : from);
  // A template's parameters may have defaults; they stand in its own brackets.
  const bool is_assigned = equals < paren && !head.starts_with("template");
  return is_assigned ? std::string_view::npos : paren;
}

Scope scope_of(std::string_view head, std::string_view last_char_and_head) {
  static const std::regex opens(R"(^(inline |export )?(namespace|extern)\b|^(template\s*<.*>\s*)?(class|struct|union|enum)\b)");
  const std::string text(head);
  const bool names_scope = std::regex_search(text, opens);
  const std::size_t parens = parameter_list(head);
  if (names_scope && (parens == std::string_view::npos || !head.ends_with(")"))) return Scope::kOpen;
  if (parens == std::string_view::npos) return Scope::kOther;
  const bool follows_name = !last_char_and_head.empty() && (is_word(last_char_and_head.back()) || last_char_and_head.back() == '>');
  return follows_name ? Scope::kOther : Scope::kBody;
}

std::string name_of(std::string_view head) {
  const std::string_view before = trimmed(head.substr(0, parameter_list(head)));
  std::size_t begin = before.find("operator");
  if (begin == std::string_view::npos) begin = before.size();
  while (begin > 0 && (is_word(before[begin - 1]) || before[begin - 1] == ':' || before[begin - 1] == '~')) --begin;
  return std::string(before.substr(begin));
}

class FunctionFinder {
 public:
  explicit FunctionFinder(std::string code) : code_(std::move(code)) {}

  std::vector<Function> run() {
    for (at_ = 0; at_ < code_.size(); ++at_) {
      const char c = code_[at_];
      if (c == '(') ++parens_;
      if (c == ')') --parens_;
      if (c == '{') open();
      if (c == '}') close();
      if (c == ';' && parens_ == 0 && is_outside()) head_ = at_ + 1;
    }
    return std::move(found_);
  }

 private:
  bool is_outside() const { return scopes_.empty() || scopes_.back() == Scope::kOpen; }

  void open() {
    Scope scope = Scope::kOther;
    if (is_outside() && parens_ == 0) {
      const std::string_view raw = std::string_view(code_).substr(head_, at_ - head_);
      const std::string_view head = trimmed(without_access(raw));
      scope = scope_of(head, raw);
      if (scope == Scope::kBody) {
        const auto start = static_cast<std::size_t>(head.data() - code_.data());
        found_.push_back({name_of(head), line_at(code_, start), 0});
      }
    }
    scopes_.push_back(scope);
    if (scope == Scope::kOpen) head_ = at_ + 1;
  }

  void close() {
    if (scopes_.empty()) return;
    const Scope scope = scopes_.back();
    scopes_.pop_back();
    if (scope == Scope::kBody) found_.back().num_lines = line_at(code_, at_) - found_.back().line + 1;
    // After an initialiser the head goes on: a constructor's body may follow.
    if (scope != Scope::kOther && is_outside()) head_ = at_ + 1;
  }

  static std::string_view without_access(std::string_view head) {
    for (const std::string_view label : {"public:", "private:", "protected:"})
      if (const auto at = head.rfind(label); at != std::string_view::npos) head.remove_prefix(at + label.size());
    return head;
  }

  std::string code_;
  std::size_t at_ = 0;
  std::size_t head_ = 0;
  int parens_ = 0;
  std::vector<Scope> scopes_;
  std::vector<Function> found_;
};

}  // namespace

std::string code_only(std::string_view text) {
  std::string code(text);
  for (std::size_t at = 0; at < text.size(); ++at) {
    const std::size_t end = end_of_opaque(text, at);
    if (end == at) continue;
    const bool is_literal = text[at] != '/';
    for (std::size_t i = at; i < end; ++i)
      if (text[i] != '\n' && !(is_literal && (i == at || i + 1 == end))) code[i] = ' ';
    at = end - 1;
  }
  return code;
}

std::vector<Include> includes_of(std::string_view text) {
  static const std::regex include(R"(^\s*#\s*include\s*([<"])([^>"]+)[>"])");
  std::vector<Include> found;
  int line = 0;
  while (!text.empty()) {
    ++line;
    const auto end = std::min(text.find('\n'), text.size());
    std::match_results<std::string_view::const_iterator> match;
    const std::string_view one = text.substr(0, end);
    if (std::regex_search(one.begin(), one.end(), match, include)) found.push_back({line, match[2].str(), match[1].str() == "\""});
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return found;
}

std::vector<Function> functions_of(std::string_view text) { return FunctionFinder(without_directives(code_only(text))).run(); }

int num_lines(std::string_view text) {
  const auto ends = static_cast<int>(std::ranges::count(text, '\n'));
  return text.empty() || text.back() == '\n' ? ends : ends + 1;
}

int line_at(std::string_view text, std::size_t position) {
  return 1 + static_cast<int>(std::ranges::count(text.substr(0, position), '\n'));
}

std::vector<std::string> string_literals(std::string_view code) {
  std::vector<std::string> literals;
  bool continues = false;   // only blanks since the last one
  for (std::size_t at = 0; at < code.size(); ++at) {
    const std::size_t end = end_of_opaque(code, at);
    if (end == at) {
      continues = continues && is_blank(code[at]);
      continue;
    }
    if (code[at] == '"') {
      const std::string_view inside = code.substr(at + 1, end - at - 2);
      if (!continues) literals.emplace_back();
      for (std::size_t i = 0; i < inside.size(); ++i) literals.back() += inside[i] == '\\' ? inside[++i] : inside[i];
      continues = true;
    }
    at = end - 1;
  }
  return literals;
}

}  // namespace moecheck::architecture
