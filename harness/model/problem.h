// What is computed, independent of who computes it: a model, its inputs and the mesh they are spread over.
// Every byte of the weights and tokens is a pure function of this (harness/inputs/generator.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "harness/base/dtype.h"
#include "harness/model/mesh.h"
#include "harness/model/model_spec.h"

namespace moecheck::model {

// normal: Irwin-Hall approximation of a normal distribution. exact: every product and partial sum is representable.
// provenance: a value names its token or its expert.
enum class Values { kNormal, kExact, kProvenance };

enum class Routing {
  kNatural,     // whatever the router makes of random tokens
  kOneExpert,   // one expert is the first choice of every token
  kIdleExpert,  // one expert gets no token
  kIdleRank,    // all experts of one EP rank get no token
  kKRanks,      // a token's K experts sit on different EP ranks
  kOneRank,     // a token's K experts sit on one EP rank, as far as it has K
  kTies,        // the K-th and the next score are exactly equal
  kZipf,        // expert popularity falls as 1/rank
};

struct Problem {
  ModelSpec model;
  Mesh mesh;
  base::DType dtype = base::DType::kF32;
  std::uint64_t seed = 1;
  Values values = Values::kNormal;
  Routing routing = Routing::kNatural;
  std::vector<Dim> tokens_per_rank = {7};  // of each data-parallel rank; cycled if there are more ranks

  Dim num_tokens(Dim rank) const;       // T of the data-parallel group that `rank` belongs to
  Dim first_token(Dim rank) const;      // global index of its first token
};

}  // namespace moecheck::model
