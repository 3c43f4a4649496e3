// Why a gradient may be wrong as a whole: a gain, or a reduction that is missing.
#pragma once

#include <string>
#include <string_view>

#include "harness/check/registry.h"

namespace moecheck::check {

// One clause without a full stop; empty if nothing fits. `want` is what the rank should have shown.
// Requires: the rank shows the tap, in the shape of `want`.
std::string gradient_cause(const CheckInput& input, Dim rank, std::string_view tap, const base::HostTensor& want);

// |got - want| / |want|, l2 norms over all elements that are finite in `want`; infinite if all of these are zero.
double relative_distance(const std::vector<double>& got, const base::HostTensor& want);

}  // namespace moecheck::check
