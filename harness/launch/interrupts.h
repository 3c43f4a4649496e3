// SIGINT and SIGTERM as a count: once, finish the case and report; twice, end the ranks now.
#pragma once

namespace moecheck::launch {

// Installs the handlers; poll() and friends return EINTR then. One object a process, made by main.
class Interrupts {
 public:
  Interrupts();
  ~Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;
};

int num_interrupts();   // since the start of the process; async-signal-safe counter behind it

}  // namespace moecheck::launch
