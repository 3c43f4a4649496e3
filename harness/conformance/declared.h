// Cases within what a subject declares, as the text of their ids.
#pragma once

#include <string>
#include <vector>

#include "harness/subject/protocol.h"

namespace moecheck::conformance {

// "none", one dimension of 2 and of 4, two dimensions of 2.
std::vector<std::string> meshes_of(const subject::ImplementationInfo& impl);
// Those of load, forward, backward and step that are offered, up to the first that is not: "load,forward".
std::string phases_of(const subject::Capabilities& capabilities);
// The implementation over a mesh with its first backend ("eager" where it has that) and the first dtype.
std::string basic_case(const subject::Capabilities& capabilities, const subject::ImplementationInfo& impl, const std::string& mesh);
std::string usual_backend(const subject::ImplementationInfo& impl);
// The mesh's dimensions as tokens_over wants them, with those that are always there: "dp,fsdp,ep".
std::string tokens_over_all(const std::string& mesh);

}  // namespace moecheck::conformance
