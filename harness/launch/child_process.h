// One child process in a session of its own, that dies with its parent. Owns waiting and killing.
#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "harness/base/result.h"

namespace moecheck::launch {

struct ChildCommand {
  std::vector<std::string> arguments;                // [0] is a path, or a name that PATH finds
  std::map<std::string, std::string> environment;    // added to the parent's
  std::filesystem::path output;                      // stdout and stderr are appended here
  std::filesystem::path errors = {};                 // stderr goes here instead, if not empty
  std::vector<std::string> removed = {};             // variables of the parent's that the child does not get
};

struct ChildExit {
  int exit_code = 0;   // if signal is 0
  int signal = 0;
  std::string text() const;   // "exit code 3", "signal 11 (Segmentation fault)"
};

// The child leads a session and process group of its own: a ^C on the terminal does not reach it, and kill_group() reaches
// all of its children that stayed in the group. It gets SIGKILL when the thread that started it ends.
class ChildProcess {
 public:
  // Errors: kIo: not found, not executable.
  static base::Result<ChildProcess> start(const ChildCommand& command);
  // A process that became a child of this one when its parent ended, and leads a group of its own. Errors: kSubject if it is none.
  static base::Result<ChildProcess> adopt(int pid);
  ~ChildProcess();   // kills the group and reaps
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;

  int pid() const { return pid_; }
  int pidfd() const { return pidfd_; }   // readable in poll() once the child has ended
  // Does not wait. If the child has ended: ends what is left of its group and reaps it.
  std::optional<ChildExit> exited();
  std::optional<ChildExit> wait_for(std::chrono::milliseconds limit);
  void kill_group();
  void terminate(std::chrono::milliseconds grace);   // SIGTERM, to the process alone, and time to put things away; may still run then

 private:
  ChildProcess(int pid, int pidfd) : pid_(pid), pidfd_(pidfd) {}
  void end();

  int pid_ = -1;
  int pidfd_ = -1;
  std::optional<ChildExit> exit_;
};

// Runs to the end and returns its stdout; `scratch` and `scratch`.err are files for its output, written anew.
// Errors: kSubject if it fails, is killed or takes longer than `limit`; kInterrupted at the first interrupt.
base::Result<std::string> run_and_read(ChildCommand command, const std::filesystem::path& scratch, std::chrono::milliseconds limit);

}  // namespace moecheck::launch
