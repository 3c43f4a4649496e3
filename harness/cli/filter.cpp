#include "harness/cli/filter.h"

#include <vector>

#include <fmt/format.h>

namespace moecheck::cli {

// or_expr := and_expr ("or" and_expr)*; and_expr := not_expr ("and" not_expr)*; not_expr := "not" not_expr | "(" or_expr ")" | word
class Filter::Parser {
 public:
  explicit Parser(std::string_view text) {
    std::string word;
    const auto flush = [&] {
      if (!word.empty()) tokens_.push_back(std::exchange(word, ""));
    };
    for (const char c : text) {
      if (c == '(' || c == ')' || c == ' ') flush();
      if (c == '(' || c == ')') tokens_.emplace_back(1, c);
      if (c != '(' && c != ')' && c != ' ') word += c;
    }
    flush();
  }

  NodePtr parse() {
    NodePtr root = parse_binary("or", Kind::kOr, [&] { return parse_and(); });
    return root != nullptr && at_ == tokens_.size() ? root : nullptr;
  }
  std::size_t position() const { return at_; }

 private:
  bool take(std::string_view token) {
    if (at_ >= tokens_.size() || tokens_[at_] != token) return false;
    ++at_;
    return true;
  }

  template <typename Operand>
  NodePtr parse_binary(std::string_view word, Kind kind, Operand operand) {
    NodePtr left = operand();
    while (left != nullptr && take(word)) {
      NodePtr right = operand();
      if (right == nullptr) return nullptr;
      left = std::make_shared<const Node>(Node{kind, "", left, right});
    }
    return left;
  }

  NodePtr parse_and() {
    return parse_binary("and", Kind::kAnd, [&] { return parse_not(); });
  }

  NodePtr parse_not() {
    if (take("not")) {
      NodePtr operand = parse_not();
      return operand == nullptr ? nullptr : std::make_shared<const Node>(Node{Kind::kNot, "", operand, nullptr});
    }
    if (take("(")) {
      NodePtr inner = parse_binary("or", Kind::kOr, [&] { return parse_and(); });
      return inner != nullptr && take(")") ? inner : nullptr;
    }
    if (at_ >= tokens_.size() || tokens_[at_] == ")" || tokens_[at_] == "and" || tokens_[at_] == "or") return nullptr;
    return std::make_shared<const Node>(Node{Kind::kWord, tokens_[at_++], nullptr, nullptr});
  }

  std::vector<std::string> tokens_;
  std::size_t at_ = 0;
};

base::Result<Filter> Filter::parse(std::string_view expression) {
  Parser parser(expression);
  Filter filter;
  filter.root_ = parser.parse();
  if (filter.root_ == nullptr)
    return base::Error{base::ErrorCode::kUsage,
                       fmt::format("'{}' is no filter: word {} is not expected; write words joined by and, or, not", expression, parser.position() + 1), "-k"};
  return filter;
}

bool Filter::matches(std::string_view text) const { return evaluate(*root_, text); }

bool Filter::evaluate(const Node& node, std::string_view text) {
  switch (node.kind) {
    case Kind::kWord: return text.find(node.word) != std::string_view::npos;
    case Kind::kNot: return !evaluate(*node.left, text);
    case Kind::kAnd: return evaluate(*node.left, text) && evaluate(*node.right, text);
    case Kind::kOr: return evaluate(*node.left, text) || evaluate(*node.right, text);
  }
  return false;
}

}  // namespace moecheck::cli
