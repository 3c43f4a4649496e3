// C++ source as the rules read it: without comments and literals, its includes, its functions.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace moecheck::architecture {

// `text` with comments and the contents of string and character literals blanked; every character keeps its place and line.
std::string code_only(std::string_view text);

struct Include {
  int line = 0;
  std::string path;        // "harness/base/dtype.h", "torch/all.h"
  bool is_quoted = false;  // "..." is ours, <...> is not
};
std::vector<Include> includes_of(std::string_view text);

// What counts as a function: a body in braces at namespace or class scope whose head, the text since the last ';', '{' or '}',
// has parentheses before any '='. So constructors, operators, TEST(...) bodies and templates count; initialisers, types,
// namespaces and macro arguments do not. Lambdas and local classes belong to the function around them. A brace directly after
// a name (no blank) in a constructor's head initialises a member, as the style writes it.
struct Function {
  std::string name;    // what stands before the first parenthesis: "Mesh::parse", "TEST"
  int line = 0;        // of the head
  int num_lines = 0;   // head to closing brace, both counted
};
std::vector<Function> functions_of(std::string_view text);

int num_lines(std::string_view text);
int line_at(std::string_view text, std::size_t position);   // from 1

// Adjacent string literals of a range of code, joined, in order: {"a", "b" "c"} gives a and bc.
std::vector<std::string> string_literals(std::string_view code);

}  // namespace moecheck::architecture
