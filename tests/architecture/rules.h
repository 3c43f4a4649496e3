// The rules that a file of the tree keeps, each a pure function of its path and text.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace moecheck::architecture {

struct SourceFile {
  std::string path;   // from the root of the tree, with '/'
  std::string text;
};

struct Violation {
  std::string path;
  int line = 0;
  std::string what;
  std::string text() const { return path + ":" + std::to_string(line) + ": " + what; }
};
using Violations = std::vector<Violation>;

// Includes of our own headers go to modules of lower levels only, along the table; third-party headers stay in their folders.
Violations check_layers(const SourceFile& file);
Violations check_third_party(const SourceFile& file);

// Header 200 lines, source 400, check or fault 150, function 60.
Violations check_sizes(const SourceFile& file);

// No `using namespace` in headers, exit() only in a file that defines main(), catch (...) only in rank_main.cpp.
Violations check_forbidden_code(const SourceFile& file);

// Names say what a file is for. Any file, not only sources.
Violations check_file_name(const SourceFile& file);

// No path of one machine in code, tests, scenarios or docs.
Violations check_machine_paths(const SourceFile& file);

// A check begins with Proves / Cannot prove / Reads / Applies when, a fault registers itself under the name of its file.
struct CheckDoc {
  std::string proves, cannot_prove, reads, applies_when;   // one line each, without a full stop
  bool is_complete() const { return !proves.empty() && !cannot_prove.empty() && !reads.empty() && !applies_when.empty(); }
};
CheckDoc doc_block(std::string_view text);
Violations check_doc_block(const SourceFile& file);
Violations check_fault(const SourceFile& file);

bool is_header(std::string_view path);
bool is_source(std::string_view path);   // .cpp
bool is_check(std::string_view path);    // harness/check/rules/*.cpp
bool is_fault(std::string_view path);    // parallel_impls/faults/*.cpp, but for the registry
std::string stem(std::string_view path);

// Text of MOECHECK_REGISTER_FAULT(...); empty if there is none.
std::string_view fault_registration(std::string_view text);

}  // namespace moecheck::architecture
