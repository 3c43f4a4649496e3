// Writes the files of the corpus, from which the fuzzer starts: write_seeds FOLDER
#include <cstdio>

#include "harness/base/files.h"
#include "tests/unit/trace/safetensors_corpus.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: write_seeds FOLDER\n", stderr);
    return 4;
  }
  const std::filesystem::path folder = argv[1];
  auto done = moecheck::base::make_folders(folder);
  for (const auto& files : {moecheck::trace::sound_files(), moecheck::trace::malformed_files()})
    for (const auto& file : files)
      if (done) done = moecheck::base::write_file_atomically(folder / file.name, file.bytes);
  if (done) return 0;
  std::fprintf(stderr, "write_seeds: %s\n", done.error().text().c_str());
  return 6;
}
