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

// What the tp dimension does to the experts.
enum class ExpertTp {
  kTp,   // ETP = TP: it cuts every expert
  kOne,  // ETP = 1: it is lent to expert parallelism; experts are spread over ep and tp together
};

// Where the routing weight meets the expert.
enum class ScorePosition {
  kAfterExperts,   // y = sum of w E(x)
  kBeforeExperts,  // y = sum of E(w x)
};

struct Problem {
  ModelSpec model;
  Mesh mesh;
  base::DType dtype = base::DType::kF32;
  std::uint64_t seed = 1;
  Values values = Values::kNormal;
  Routing routing = Routing::kNatural;
  std::vector<Dim> tokens_per_rank = {7};  // of each token shard; cycled if there are more shards
  // Mesh dimensions that the tokens are sharded over, the first outermost; ranks that differ in others hold the same tokens.
  std::vector<std::string> token_dims = {"dp", "fsdp"};
  ExpertTp expert_tp = ExpertTp::kTp;
  ScorePosition score_position = ScorePosition::kAfterExperts;

  bool shards_tokens(std::string_view dim) const;   // the mesh has it, with more than one rank, and tokens are sharded over it
  std::string token_dims_text() const;  // "dp,fsdp", as Mesh takes it
  Dim num_tokens(Dim rank) const;       // T of the token shard that `rank` holds
  Dim first_token(Dim rank) const;      // global index of its first token
  Dim total_tokens() const;             // over all token shards
  // Ranks that share tokens or experts with `rank`: those that differ from it in ep and tp only.
  std::vector<Dim> layer_group(Dim rank) const;

  // Mesh dimensions that the experts are spread over, "ep" or "ep,tp".
  std::string expert_dims() const;
  bool cuts_experts() const;            // tp cuts every expert
};

}  // namespace moecheck::model
