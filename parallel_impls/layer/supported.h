// What the in-tree layers refuse: layouts and sizes that they would compute wrongly, or not at all.
#pragma once

#include "parallel_impls/layer/layer.h"

namespace moecheck::parallel_impls {

// Errors: Unsupported for sizes that the mesh does not divide, or that the grouped GEMM's alignment forbids.
void refuse_unsupported_sizes(const cases::Case& one);

// Tokens may be sharded over dp, fsdp and `more`. Errors: Unsupported.
void require_tokens_over(const cases::Case& one, std::initializer_list<std::string_view> more);
// tp cuts the experts; it is not lent to them. Errors: Unsupported.
void require_own_tp(const cases::Case& one);

}  // namespace moecheck::parallel_impls
