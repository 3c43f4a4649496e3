// Which module may include which: the table of docs/architecture.md.
#pragma once

#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moecheck::architecture {

struct Module {
  std::string_view name;
  int level;
  std::vector<std::string_view> includes;   // and all that those include
};

std::span<const Module> modules();
const Module* find_module(std::string_view name);

// Everything below a module: the closure of its row.
std::set<std::string, std::less<>> allowed_includes(std::string_view module);

// "check" for harness/check/rules/x.cpp, "reference" for reference/x.h; empty for a path of no module (tests, ci).
std::string module_of(std::string_view path);

// Folders whose files alone may include a library's headers, each known by how its includes begin.
struct ThirdParty {
  std::string_view library;
  std::vector<std::string_view> prefixes;
  std::vector<std::string_view> folders;
};
std::span<const ThirdParty> third_parties();

}  // namespace moecheck::architecture
