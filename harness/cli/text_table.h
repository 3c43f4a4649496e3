// Columns of text, each as wide as its widest cell.
#pragma once

#include <string>
#include <vector>

namespace moecheck::cli {

// One line a row, two blanks between columns, none at the end of a line.
std::string text_table(const std::vector<std::vector<std::string>>& rows);

}  // namespace moecheck::cli
