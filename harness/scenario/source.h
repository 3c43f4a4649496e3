// The text of a YAML file and how its errors look: `path:line:column: message`, then the line with a caret.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "harness/base/result.h"

namespace moecheck::scenario {

// A place in a file. Line and column are 1-based; columns and width count characters (code points), as editors do.
struct Spot {
  std::size_t line = 1;
  std::size_t column = 1;
  std::size_t width = 1;  // characters to underline; cut at the end of the line
};

struct Source {
  std::string path;
  std::string text;  // valid UTF-8 without control characters: yaml_reader.h refuses anything else

  // `spot` as "path:line:column".
  std::string where(const Spot& spot) const;

  // Error::where is "path:line:column"; Error::message is `message` and below it the line, the caret under `spot`:
  //     unknown key 'expets_backend'; did you mean 'experts_backend'?
  //       14 |   expets_backend: [eager]
  //          |   ^~~~~~~~~~~~~~
  base::Error error_at(const Spot& spot, std::string_view message) const;
};

// Number of characters (code points) of valid UTF-8.
std::size_t num_characters(std::string_view text);

}  // namespace moecheck::scenario
