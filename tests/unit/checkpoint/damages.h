// Ways in which a checkpoint on disk can be damaged, drawn from a seed. On bytes in memory: what is written is for the test.
#pragma once

#include <cstdint>
#include <map>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moecheck::checkpoint {

using Files = std::map<std::string, std::string>;   // name -> bytes

struct Saves {
  Files good;
  Files older;            // another step, of the same layout and sizes
  Files wider;            // of more ranks or files
  std::string index;      // name of the index file
  bool is_sealed = true;  // checksums cover the tensors' bytes; else only headers and index are worth damaging
};

class Draw {
 public:
  explicit Draw(std::uint64_t seed) : random_(seed) {}
  std::size_t below(std::size_t count) { return static_cast<std::size_t>(random_() % count); }
  bool coin() { return below(2) == 0; }
  template <typename T>
  const T& one_of(const std::vector<T>& choices) {
    return choices.at(below(choices.size()));
  }

 private:
  std::mt19937_64 random_;
};

struct Damage {
  std::string what;
  Files files;
  std::vector<std::string> blamed;   // files of which a refusal has to name one
  bool is_subtle = false;            // an index that is well-formed but not of these files: it may be named beside one of them
};

struct DamageKind {
  std::string_view name;
  Damage (*make)(const Saves& saves, Draw& draw);
};

// To the bytes of one file: flips, cuts, torn writes.
std::span<const DamageKind> byte_damages();
// The same of tensors' values, which stay plausible. Only where they are sealed.
std::span<const DamageKind> value_damages();
// Files that are missing, additional, exchanged, or of another save.
std::span<const DamageKind> file_damages();
// An index.json of the sharded form that says something else, with its checksum renewed or not.
std::span<const DamageKind> index_damages();

// Where the tensors' bytes begin; the size of a file that is not safetensors.
std::size_t size_of_structure(const std::string& name, const std::string& bytes);

}  // namespace moecheck::checkpoint
