// -k EXPR: words joined by and, or, not and parentheses; a word matches if the case's id, scenario or a tag contains it.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "harness/base/result.h"

namespace moecheck::cli {

class Filter {
 public:
  // Errors: kUsage with the position.
  static base::Result<Filter> parse(std::string_view expression);
  bool matches(std::string_view text) const;

 private:
  enum class Kind { kWord, kNot, kAnd, kOr };
  struct Node {
    Kind kind = Kind::kWord;
    std::string word;
    std::shared_ptr<const Node> left;
    std::shared_ptr<const Node> right;
  };
  using NodePtr = std::shared_ptr<const Node>;
  class Parser;
  static bool evaluate(const Node& node, std::string_view text);
  NodePtr root_;
};

}  // namespace moecheck::cli
