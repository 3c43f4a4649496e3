#include "harness/model/problem.h"

namespace moecheck::model {
namespace {

Dim tokens_of(const Problem& problem, Dim data_parallel_rank) {
  const auto& list = problem.tokens_per_rank;
  MOECHECK_REQUIRE(!list.empty());
  return list[static_cast<std::size_t>(data_parallel_rank) % list.size()];
}

}  // namespace

Dim Problem::num_tokens(Dim rank) const { return tokens_of(*this, mesh.coordinate(rank, "dp")); }

Dim Problem::first_token(Dim rank) const {
  Dim first = 0;
  for (Dim earlier = 0; earlier < mesh.coordinate(rank, "dp"); ++earlier) first += tokens_of(*this, earlier);
  return first;
}

}  // namespace moecheck::model
