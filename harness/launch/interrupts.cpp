#include "harness/launch/interrupts.h"

#include <csignal>

namespace moecheck::launch {
namespace {

volatile std::sig_atomic_t interrupt_count = 0;

void count_interrupt(int) { interrupt_count = interrupt_count + 1; }

}  // namespace

void count_interrupts() {
  struct sigaction action{};
  action.sa_handler = count_interrupt;  // without SA_RESTART: waiting calls return
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

int num_interrupts() { return interrupt_count; }

}  // namespace moecheck::launch
