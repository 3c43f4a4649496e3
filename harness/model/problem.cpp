#include "harness/model/problem.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace moecheck::model {
namespace {

Dim tokens_of(const Problem& problem, Dim shard) {
  const auto& list = problem.tokens_per_rank;
  MOECHECK_REQUIRE(!list.empty());
  return list[static_cast<std::size_t>(shard) % list.size()];
}

Dim tokens_before(const Problem& problem, Dim shard) {
  Dim sum = 0;
  for (Dim earlier = 0; earlier < shard; ++earlier) sum += tokens_of(problem, earlier);
  return sum;
}

}  // namespace

bool Problem::shards_tokens(std::string_view dim) const {
  return mesh.size(dim) > 1 && std::ranges::find(token_dims, dim) != token_dims.end();
}

std::string Problem::token_dims_text() const { return fmt::format("{}", fmt::join(token_dims, ",")); }

Dim Problem::num_tokens(Dim rank) const { return tokens_of(*this, mesh.coordinate(rank, token_dims_text())); }

Dim Problem::first_token(Dim rank) const { return tokens_before(*this, mesh.coordinate(rank, token_dims_text())); }

Dim Problem::total_tokens() const { return tokens_before(*this, mesh.size(token_dims_text())); }

std::vector<Dim> Problem::layer_group(Dim rank) const { return mesh.group(rank, "ep,tp"); }

std::string Problem::expert_dims() const { return expert_tp == ExpertTp::kOne && mesh.size("tp") > 1 ? "ep,tp" : "ep"; }

bool Problem::cuts_experts() const { return expert_tp == ExpertTp::kTp && mesh.size("tp") > 1; }

}  // namespace moecheck::model
