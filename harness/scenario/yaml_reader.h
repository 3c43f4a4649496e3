// A strict subset of YAML 1.2, read by yaml-cpp 0.7 and settled here:
//
//   - one document of UTF-8 text; no byte order mark, control character or tab
//   - a key is text and stands once in its map (yaml-cpp keeps the first of two silently)
//   - no merge keys (<<), anchors, aliases, tags or directives: a value stands where it is used, so a file cannot grow when it is read
//   - nothing is converted: a plain scalar stays text, so `no` is no boolean and `010` is not 8; see yaml_shape.h
//   - limits on file size, number of nodes and depth
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "harness/base/result.h"
#include "harness/scenario/source.h"

namespace moecheck::scenario {

constexpr std::size_t kMaxYamlBytes = 256 * 1024;
constexpr std::size_t kMaxYamlNodes = 10'000;  // keys included
constexpr std::size_t kMaxYamlDepth = 16;

enum class YamlKind { kNull, kScalar, kList, kMap };

struct YamlEntry;

struct YamlNode {
  YamlKind kind = YamlKind::kNull;
  std::string text;        // of a scalar
  bool is_quoted = false;  // "7" and block text are quoted, 7 is plain
  std::vector<YamlNode> items;
  std::vector<YamlEntry> entries;  // in file order
  Spot spot;                       // of an absent value: its key
};

struct YamlEntry {
  YamlNode key;  // a scalar
  YamlNode value;
};

struct YamlDocument {
  Source source;
  YamlNode root;
};

// Errors: kUsage at "path:line:column" with an excerpt; a syntax error of yaml-cpp comes in the same form.
base::Result<YamlDocument> parse_yaml(std::string path, std::string text);

// Errors: kIo for an unreadable file; kUsage for a missing one, with its nearest neighbour in the folder. Else as parse_yaml.
base::Result<YamlDocument> read_yaml(const std::filesystem::path& path);

}  // namespace moecheck::scenario
