#include "tests/architecture/rules.h"

#include <algorithm>
#include <array>
#include <regex>

#include <fmt/format.h>

#include "tests/architecture/layers.h"
#include "tests/architecture/source_text.h"

namespace moecheck::architecture {
namespace {

constexpr int kHeaderLines = 200;
constexpr int kSourceLines = 400;
constexpr int kRuleLines = 150;   // of a check or a fault
constexpr int kFunctionLines = 60;

// Every match of `pattern`; the line is that of the match's first group, or of the whole.
Violations matches(const SourceFile& file, std::string_view text, const std::regex& pattern, const std::string& what) {
  Violations found;
  using Iterator = std::regex_iterator<std::string_view::const_iterator>;
  for (Iterator match(text.begin(), text.end(), pattern), end; match != end; ++match) {
    const std::size_t group = match->size() > 1 ? 1 : 0;
    found.push_back({file.path, line_at(text, static_cast<std::size_t>(match->position(group))), what});
  }
  return found;
}

void append(Violations& into, Violations more) { std::ranges::move(more, std::back_inserter(into)); }

// The leading comment as one line of text.
std::string leading_comment(std::string_view text) {
  std::string comment;
  while (text.starts_with("//")) {
    const auto end = std::min(text.find('\n'), text.size());
    comment += " " + std::string(text.substr(2, end - 2));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return std::regex_replace(comment, std::regex(R"(\s+)"), " ");
}

std::string between(const std::string& text, std::string_view from, std::string_view to) {
  const auto begin = text.find(from);
  if (begin == std::string::npos) return "";
  const auto end = to.empty() ? text.size() : text.find(to, begin + from.size());
  if (end == std::string::npos) return "";
  std::string part = text.substr(begin + from.size(), end - begin - from.size());
  while (!part.empty() && (part.back() == ' ' || part.back() == '.')) part.pop_back();
  part.erase(0, std::min(part.find_first_not_of(' '), part.size()));
  return part;
}

}  // namespace

bool is_header(std::string_view path) { return path.ends_with(".h"); }
bool is_source(std::string_view path) { return path.ends_with(".cpp"); }
bool is_check(std::string_view path) { return path.starts_with("harness/check/rules/") && is_source(path); }

bool is_fault(std::string_view path) {
  return path.starts_with("parallel_impls/faults/") && is_source(path) && path != "parallel_impls/faults/fault.cpp";
}

std::string stem(std::string_view path) {
  path.remove_prefix(path.rfind('/') + 1);
  return std::string(path.substr(0, path.find('.')));
}

Violations check_layers(const SourceFile& file) {
  const std::string module = module_of(file.path);
  if (module.empty()) return {};
  if (find_module(module) == nullptr) return {{file.path, 1, fmt::format("module '{}' is not in the table", module)}};
  const auto allowed = allowed_includes(module);
  Violations found;
  for (const Include& include : includes_of(file.text)) {
    if (!include.is_quoted) continue;
    const std::string target = module_of(include.path);
    if (target.empty()) {
      found.push_back({file.path, include.line, fmt::format("\"{}\" is in no module; write the path from the root", include.path)});
    } else if (target != module && !allowed.contains(target)) {
      found.push_back({file.path, include.line, fmt::format("{} may not include {}", module, target)});
    }
  }
  return found;
}

Violations check_third_party(const SourceFile& file) {
  Violations found;
  for (const Include& include : includes_of(file.text))
    for (const ThirdParty& third : third_parties()) {
      const auto begins = [&](std::string_view prefix) { return include.path.starts_with(prefix); };
      const auto holds = [&](std::string_view folder) { return file.path.starts_with(folder); };
      if (std::ranges::any_of(third.prefixes, begins) && std::ranges::none_of(third.folders, holds))
        found.push_back({file.path, include.line,
                         fmt::format("<{}> of {} belongs in {} only", include.path, third.library, third.folders[0])});
    }
  return found;
}

Violations check_sizes(const SourceFile& file) {
  const int most = is_check(file.path) || is_fault(file.path) ? kRuleLines : is_header(file.path) ? kHeaderLines : kSourceLines;
  Violations found;
  const int lines = num_lines(file.text);
  if (lines > most) found.push_back({file.path, most + 1, fmt::format("{} lines, at most {}", lines, most)});
  for (const Function& function : functions_of(file.text))
    if (function.num_lines > kFunctionLines)
      found.push_back({file.path, function.line,
                       fmt::format("function {} has {} lines, at most {}", function.name, function.num_lines, kFunctionLines)});
  return found;
}

Violations check_forbidden_code(const SourceFile& file) {
  static const std::regex using_namespace(R"(\busing\s+namespace\b)");
  // A method of that name, app.exit(e), is another matter; so is _exit() of a forked child.
  static const std::regex exit_call(R"((?:^|[^\w.>])(?:std::)?((?:quick_)?exit\s*\())");
  static const std::regex catch_all(R"(\bcatch\s*\(\s*\.\.\.\s*\))");
  const std::string code = code_only(file.text);
  Violations found;
  if (is_header(file.path)) append(found, matches(file, code, using_namespace, "using namespace in a header"));
  const auto functions = functions_of(file.text);
  const bool is_program = std::ranges::find(functions, "main", &Function::name) != functions.end();
  if (!is_program) append(found, matches(file, code, exit_call, "exit() outside of main"));
  if (stem(file.path) != "rank_main") append(found, matches(file, code, catch_all, "catch (...) outside of rank_main.cpp"));
  return found;
}

Violations check_file_name(const SourceFile& file) {
  static const std::regex vague(R"((?:^|[/_.-])(utils?|helpers?|managers?|misc)(?=[/_.-]|$))", std::regex::icase);
  std::smatch match;
  if (!std::regex_search(file.path, match, vague)) return {};
  return {{file.path, 1, fmt::format("'{}' says nothing about what is in it", match[1].str())}};
}

Violations check_machine_paths(const SourceFile& file) {
  // Folders under which one machine or person keeps things. Put together here, so that this file keeps its own rule.
  static const std::regex machine("(?:^|[\\s\"'`=(:])(/(?:" "home|root|Users|work|mnt|media|scratch|data" ")/\\w)");
  return matches(file, file.text, machine, "path of one machine");
}

CheckDoc doc_block(std::string_view text) {
  const std::string comment = leading_comment(text);
  if (!comment.starts_with(" Proves:")) return {};
  return {between(comment, "Proves:", "Cannot prove:"), between(comment, "Cannot prove:", "Reads:"),
          between(comment, "Reads:", "Applies when:"), between(comment, "Applies when:", "")};
}

Violations check_doc_block(const SourceFile& file) {
  if (!is_check(file.path) || doc_block(file.text).is_complete()) return {};
  return {{file.path, 1, "a check begins with // Proves: .. // Cannot prove: .. // Reads: .. Applies when: .."}};
}

std::string_view fault_registration(std::string_view text) {
  const auto begin = text.find("MOECHECK_REGISTER_FAULT(");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find("\n});", begin) - begin);
}

Violations check_fault(const SourceFile& file) {
  if (!is_fault(file.path)) return {};
  const auto literals = string_literals(fault_registration(file.text));
  if (literals.empty()) return {{file.path, 1, "registers no fault"}};
  if (literals[0] == stem(file.path)) return {};
  return {{file.path, 1, fmt::format("registers '{}'; a fault has the name of its file", literals[0])}};
}

}  // namespace moecheck::architecture
