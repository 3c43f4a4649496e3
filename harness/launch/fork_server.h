// A subject's server: a process that imported its framework once and forks ranks on request.
#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "harness/launch/channel.h"
#include "harness/launch/child_process.h"

namespace moecheck::launch {

class ForkServer {
 public:
  struct Options {
    std::vector<std::string> command;
    std::filesystem::path folder;   // made by this
    std::chrono::milliseconds start_limit{60'000};
  };

  // The driver becomes the parent of orphans below it (a subreaper), so that a rank, forked twice, is its child.
  // Errors: kIo; kSubject with the server's last output.
  static base::Result<std::unique_ptr<ForkServer>> start(const Options& options);

  // A child of the driver's with this environment added, in a session of its own. Errors: kSubject; kInterrupted.
  base::Result<ChildProcess> fork(const std::map<std::string, std::string>& environment, const std::filesystem::path& output);
  bool is_alive() { return !process_.exited(); }

 private:
  ForkServer(Options options, ChildProcess process, Channel channel) : options_(std::move(options)), process_(std::move(process)), channel_(std::move(channel)) {}
  static std::filesystem::path log_of(const Options& options) { return options.folder / "server.log"; }
  base::Result<base::Json> next_message(const char* what);
  base::Error error(const std::string& what) const;

  Options options_;
  ChildProcess process_;
  Channel channel_;
  std::int64_t request_id_ = 0;
};

}  // namespace moecheck::launch
