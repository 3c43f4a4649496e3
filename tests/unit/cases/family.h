// A small model family for the tests of cases, without a file.
#pragma once

#include "harness/cases/case.h"

namespace moecheck::cases {

// "small": experts 12, top_k 3, d_model 48, d_ff 96. Errors: kUsage for any other family.
inline FamilyLoader small_family() {
  return [](std::string_view family) -> base::Result<model::ModelSpec> {
    if (family != "small") return base::Error{base::ErrorCode::kUsage, "no model family '" + std::string(family) + "'", ""};
    model::ModelSpec spec;
    spec.family = "small";
    spec.num_experts = 12;
    spec.top_k = 3;
    spec.d_model = 48;
    spec.d_ff = 96;
    return spec;
  };
}

inline KnobValues with(KnobValues more) {
  more.emplace("impl", "ep_allreduce");
  more.emplace("model", "small");
  return more;
}

}  // namespace moecheck::cases
