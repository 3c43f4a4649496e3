// Fingerprints of the global tensors of a case in which nothing was rounded. Every layout of one problem must have the same ones
// (harness/driver/layout_invariance.h).
#pragma once

#include <map>
#include <string>

#include "harness/cases/case.h"
#include "harness/trace/expected.h"
#include "harness/trace/trace.h"

namespace moecheck::check {

// Tap -> 16 hexadecimal digits, of output/y_TD and of the gradients of the tokens and the parameters, each put together from the
// lowest rank of each group of replicas. Zeros of both signs are alike: 0 + -0 depends on who adds.
// Left out: a tap that a rank lacks, shows in another shape or dtype than declared, or that the reference cannot tell, a row of it
// included; one with an element that is not finite, or whose sum may round (compare.h, unit_of). Empty unless values=exact.
// Requires: expected belongs to observed.
// Determinism: of the values and their global indices alone; order of ranks and of elements do not matter.
std::map<std::string, std::string> exact_digests(const cases::Case& one, const trace::Expected& expected, const trace::Trace& observed);

}  // namespace moecheck::check
