// Checkpoints in a temporary folder, and ways to damage them.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "harness/checkpoint/checkpoint.h"
#include "harness/checkpoint/save_rank.h"

namespace moecheck::checkpoint {

class CheckpointFolders : public testing::Test {
 protected:
  CheckpointFolders();
  ~CheckpointFolders() override;

  std::filesystem::path path(const std::string& name) const { return root_ / name; }
  void write_tensors(const std::string& file, const std::vector<trace::NamedTensor>& tensors) const;
  void write_text(const std::string& file, const std::string& text) const;
  std::string read_text(const std::string& file) const;

  // index.json of `folder`, changed and written back, with a new checksum: as if its writer had meant it so.
  template <typename Change>
  void change_index(const std::string& folder, Change change) const {
    base::Json json = base::read_json_file(path(folder) / kIndexFile).value();
    change(json);
    const auto index = index_from_json(json, "");
    write_text(folder + "/index.json", index ? index_text(*index) : json.dump(1));
  }

  // "sharded": 4 ranks, mesh dp=2,ep=2; experts/w (4, 3, 5) over ep, router/w (4, 5) replicated.
  void write_sharded(const std::string& folder) const;
  // "indexed": two files, the experts 0 and 1 in the first, 2 and 3 and the router in the second.
  void write_indexed(const std::string& folder) const;

  // survey() finds exactly one problem: of this file (and tensor), saying so.
  void expect_problem(const std::string& folder, const std::string& file, const std::string& message, const std::string& tensor = "") const;
  void expect_sound(const std::string& folder) const;

  std::filesystem::path root_;
};

// Of these sizes, element i being first + i * step.
base::HostTensor ramp(base::DType dtype, base::Shape shape, double first, double step = 1);

}  // namespace moecheck::checkpoint
