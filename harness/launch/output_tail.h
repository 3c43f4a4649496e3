// The end of what a process printed, as one line for a reason or an error.
#pragma once

#include <filesystem>
#include <string>

namespace moecheck::launch {

// At most 600 bytes, without the frames of C++ stack traces; line ends become " | ". Empty if the file is empty or cannot be read.
std::string output_tail(const std::filesystem::path& file);

}  // namespace moecheck::launch
