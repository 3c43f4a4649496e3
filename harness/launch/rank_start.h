// How the ranks of a pool come to be, until each has said hello.
//
//   on their own    a process for each rank, a child of the driver (the usual way)
//   forked          a server of the subject's, which imported its framework once, forks each; the driver adopts them
//   under launcher  `PREFIX CMD` is started once, as in "torchrun --nproc-per-node 4 --no-python", and starts the ranks, perhaps on other
//                   machines; they find their rank in its environment and talk to one socket
//   at once         a subject that takes no requests is given the whole case in a file, and what it answers comes through a pipe
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "harness/base/json.h"
#include "harness/launch/channel.h"
#include "harness/launch/child_process.h"
#include "harness/model/dims.h"

namespace moecheck::launch {

class ForkServer;

// What a launcher is given to end when it is asked to: srun that is killed outright leaves its job behind, without a process and for as long
// as the queue lets it.
inline constexpr std::chrono::milliseconds kAskedGrace{10'000};

// Told when a request went out to all ranks, and the processes of those that this program started.
using SentObserver = std::function<void(const base::Json& request, const std::vector<int>& processes)>;

struct StartOptions {
  std::vector<std::string> command;
  model::Dim world_size = 1;
  std::filesystem::path folder;                 // sockets and logs; there already
  std::chrono::milliseconds start_limit{60'000};
  ForkServer* fork_server = nullptr;            // not empty: forked
  std::vector<std::string> prefix = {};         // not empty: under launcher; {ranks} stands for the world size
  std::string listen = {};                      // under launcher: the address for ranks on other machines; empty: a UNIX socket
  std::vector<base::Json> plan = {};            // not empty: at once; the requests of the case with their ids
  SentObserver on_sent = {};
};

struct StartedRank {
  std::optional<ChildProcess> process;   // none under a launcher
  Descriptor foreign;                    // pidfd of a rank under a launcher that runs on this machine
  Channel channel;
};

struct StartedRanks {
  std::vector<StartedRank> ranks;
  std::optional<ChildProcess> launcher;
};

// Errors: kSubject with the rank's last output; kIo; kUsage for an address.
base::Result<StartedRanks> start_ranks(const StartOptions& options);

std::filesystem::path log_path(const StartOptions& options, model::Dim rank);   // its stdout and stderr, or those of all ranks

}  // namespace moecheck::launch
