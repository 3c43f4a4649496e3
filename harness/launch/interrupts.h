// SIGINT and SIGTERM as a count: once, finish the case and report; twice, end the ranks now.
#pragma once

namespace moecheck::launch {

// Installs the handlers, for the rest of the process: an interrupt that comes while it ends must not change its exit code.
// poll() and friends return EINTR from now on.
void count_interrupts();

int num_interrupts();   // since the start of the process; async-signal-safe counter behind it

}  // namespace moecheck::launch
