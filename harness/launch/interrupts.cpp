#include "harness/launch/interrupts.h"

#include <csignal>

namespace moecheck::launch {
namespace {

volatile std::sig_atomic_t interrupt_count = 0;

void count_interrupt(int) { interrupt_count = interrupt_count + 1; }

void set_handler(void (*handler)(int)) {
  struct sigaction action{};
  action.sa_handler = handler;  // without SA_RESTART: waiting calls return
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

}  // namespace

Interrupts::Interrupts() { set_handler(count_interrupt); }
Interrupts::~Interrupts() { set_handler(SIG_DFL); }

int num_interrupts() { return interrupt_count; }

}  // namespace moecheck::launch
