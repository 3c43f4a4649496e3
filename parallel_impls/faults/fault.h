// A fault is a known bug, injected by replacing functions at the seams of a sound implementation.
#pragma once

#include <vector>

#include "harness/subject/protocol.h"
#include "parallel_impls/layer/seams.h"

namespace moecheck::parallel_impls {

struct Fault {
  subject::FaultInfo info;
  void (*apply)(Seams& seams);
};

const std::vector<Fault>& faults();   // in order of their names
bool register_fault(Fault fault);

}  // namespace moecheck::parallel_impls

// A name of its own for each: files of faults are compiled together.
#define MOECHECK_FAULT_NAME_OF(number) moecheck_registered_fault_##number
#define MOECHECK_FAULT_NAME(number) MOECHECK_FAULT_NAME_OF(number)
#define MOECHECK_REGISTER_FAULT(...) \
  [[maybe_unused]] static const bool MOECHECK_FAULT_NAME(__COUNTER__) = ::moecheck::parallel_impls::register_fault(__VA_ARGS__)
