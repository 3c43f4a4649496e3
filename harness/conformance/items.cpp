#include <array>

#include "harness/base/require.h"
#include "harness/conformance/item.h"

namespace moecheck::conformance {

std::string_view outcome_name(Outcome outcome) {
  switch (outcome) {
    case Outcome::kOk: return "ok";
    case Outcome::kFailed: return "FAIL";
    case Outcome::kNotApplicable: return "n/a";
  }
  MOECHECK_REQUIRE(false);
  return "";
}

ItemResult ok(std::string message, std::vector<std::string> notes) { return {Outcome::kOk, std::move(message), std::move(notes)}; }
ItemResult failed(std::string message) { return {Outcome::kFailed, std::move(message)}; }
ItemResult not_applicable(std::string reason) { return {Outcome::kNotApplicable, std::move(reason)}; }

std::span<const Item> items() {
  static constexpr std::array kItems = {
      Item{"describe", "--moecheck-describe prints one JSON object that makes sense, the same each time", describe},
      Item{"cases", "small sound cases pass in every implementation, layout, dtype and backend that is declared, or are refused with a reason",
           sound_cases},
      Item{"refusals", "ranks refuse what was not declared as unsupported, and run nothing else in its place", refusals},
      Item{"order", "requests in a wrong order and unknown ones are answered, and a sound case passes on the same ranks afterwards", order},
      Item{"no_tokens", "a rank without a token takes part like the others, or the case is refused", no_tokens},
      Item{"values", "loaded weights are shown byte for byte, NaN payloads, infinities, subnormals and -0 too", values},
      Item{"killed", "a rank that is killed in a forward is reported as such, nothing is left running, and the next case passes", killed},
      Item{"stopped", "a rank that stands still for a while in a forward does no harm", stopped},
      Item{"noise", "what ranks print, and an stdout and stderr that are closed or full, do no harm", noise},
      Item{"large", "a parameter of 1 GiB is loaded and shown whole", large},
  };
  return kItems;
}

}  // namespace moecheck::conformance
