// Runs the real moecheck in a folder of its own, as a user would, and looks at what it leaves behind.
#pragma once

#include <string>
#include <vector>

#include "harness/base/json.h"
#include "harness/launch/child_process.h"
#include "tests/unit/launch/launch_fixture.h"

namespace moecheck::cli {

struct Outcome {
  int exit_code = -1;   // -1 if a signal ended it
  std::string out;
  std::string err;
};

// A case of the in-tree implementations that passes, and takes about half a second with the start of its ranks.
inline constexpr const char* kCase = "impl=ep_allreduce model=mixtral mesh=ep=2 dtype=fp32";

class CliTest : public launch::TemporaryFolder {
 protected:
  CliTest();

  // In the current folder folder_, with its scratch folders in folder_/t.
  Outcome moecheck(const std::vector<std::string>& arguments) const;
  // A line for the shell, in which `moecheck` is the program.
  Outcome shell(const std::string& line) const;
  // Does not wait; output goes to out.txt and err.txt.
  launch::ChildProcess start(const std::vector<std::string>& arguments) const;
  Outcome finish(launch::ChildProcess& process) const;

  base::Json json_of(const Outcome& outcome) const;
  base::Json record_of(const std::string& run = "run") const;   // run.json
  std::string read(const std::string& name) const { return launch::text_of(folder_ / name); }
  void write(const std::string& name, const std::string& text) const;

  // Ranks that were started from this folder and live.
  std::vector<int> ranks() const;
  int rank_process(int rank) const;   // -1 if it is not there
  bool is_all_gone() const { return launch::eventually([this] { return ranks().empty(); }); }
  // A file in the scratch folder of the running moecheck: "w0/trace/load/rank1.safetensors".
  bool exists_in_scratch(const std::string& name) const;

  // Ids of faulty cases of the zoo: of each fault, or fewer, in which each check that catches a fault has its turn.
  enum class FaultyCases { kAll, kForEachCheck };
  std::vector<std::string> faulty_cases(FaultyCases which = FaultyCases::kAll) const;
};

std::string unruly_case(const std::string& impl, const std::string& more = "");

}  // namespace moecheck::cli
