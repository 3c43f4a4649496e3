// Is there a NaN or an Inf anywhere in a tensor? Quick enough for the weights of a full-size layer.
#pragma once

#include "harness/base/host_tensor.h"

namespace moecheck::check {

// False for integers.
bool has_nonfinite(const base::HostTensor& tensor);

}  // namespace moecheck::check
