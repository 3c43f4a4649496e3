// What a YAML file may consist of, settled before any parser sees it.
#pragma once

#include "harness/base/result.h"
#include "harness/scenario/source.h"

namespace moecheck::scenario {

// UTF-8 without byte order mark and without control characters: no tab, NUL or lone carriage return; LF and CRLF end lines.
// Errors: kUsage with the place of the first offender, which the excerpt shows as '?'.
base::Status check_bytes(const Source& source);

}  // namespace moecheck::scenario
