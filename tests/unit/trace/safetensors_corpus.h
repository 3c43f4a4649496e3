// Safetensors files, sound and malformed, made by hand: not one byte comes from the writer under test.
#pragma once

#include <string>
#include <vector>

namespace moecheck::trace {

struct CorpusFile {
  std::string name;     // of the file, without its ending
  std::string bytes;
  std::string refusal;  // part of our message; empty: a sound file, which we read
  std::string package;  // why the PyPI package reads it all the same; empty: it refuses what we refuse
};

// Every supported dtype, tensors without elements and without dims, metadata, names, orders, padding.
std::vector<CorpusFile> sound_files();

// Each one mutation away from a sound file.
std::vector<CorpusFile> malformed_files();

}  // namespace moecheck::trace
