// Which experts designed routing wants for each token.
#include <algorithm>
#include <numeric>

#include "harness/inputs/generator.h"
#include "harness/inputs/philox_stream.h"

namespace moecheck::inputs {
namespace {

using model::Dim;
using model::Problem;
using model::Routing;

// Without an EP dimension, patterns that speak of ranks take two halves.
Dim num_blocks(const Problem& problem) { return problem.mesh.has("ep") ? problem.mesh.size("ep") : 2; }

std::vector<Dim> experts_of_block(const Problem& problem, Dim block) {
  const Dim size = std::max<Dim>(1, problem.model.num_experts / num_blocks(problem));
  std::vector<Dim> experts;
  for (Dim e = 0; e < problem.model.num_experts; ++e)
    if (std::min(e / size, num_blocks(problem) - 1) == block) experts.push_back(e);
  return experts;
}

// Draws without replacement; a token's draws are a stream of their own.
class Draws {
 public:
  Draws(const Problem& problem, Dim token)
      : stream_(problem.seed, "routing"), next_(static_cast<std::uint64_t>(token) << 16) {}

  Dim below(Dim bound) { return static_cast<Dim>(stream_.bits(next_++) % static_cast<std::uint64_t>(bound)); }

  Dim take(std::vector<Dim>& pool) {
    const auto at = static_cast<std::ptrdiff_t>(below(static_cast<Dim>(pool.size())));
    const Dim value = pool[static_cast<std::size_t>(at)];
    pool.erase(pool.begin() + at);
    return value;
  }

 private:
  Stream stream_;
  std::uint64_t next_;
};

std::vector<Dim> all_experts(const Problem& problem) {
  std::vector<Dim> experts(static_cast<std::size_t>(problem.model.num_experts));
  std::iota(experts.begin(), experts.end(), Dim{0});
  return experts;
}

std::vector<Dim> take_many(Draws& draws, std::vector<Dim> pool, Dim count) {
  std::vector<Dim> taken;
  while (static_cast<Dim>(taken.size()) < count) taken.push_back(draws.take(pool));
  return taken;
}

// One fixed choice a problem, so that the favourite or idle one is the same for all tokens.
Dim fixed_choice(const Problem& problem, Dim bound) {
  return static_cast<Dim>(Stream(problem.seed, "routing/fixed").bits(0) % static_cast<std::uint64_t>(bound));
}

std::vector<Dim> on_different_ranks(const Problem& problem, Draws& draws) {
  const Dim blocks = num_blocks(problem);
  const Dim start = draws.below(blocks);
  std::vector<std::vector<Dim>> pools;
  for (Dim b = 0; b < blocks; ++b) pools.push_back(experts_of_block(problem, b));
  std::vector<Dim> chosen;
  for (Dim j = 0; static_cast<Dim>(chosen.size()) < problem.model.top_k; ++j) {
    auto& pool = pools[static_cast<std::size_t>((start + j) % blocks)];
    if (!pool.empty()) chosen.push_back(draws.take(pool));
  }
  return chosen;
}

std::vector<Dim> on_one_rank(const Problem& problem, Draws& draws) {
  const Dim blocks = num_blocks(problem);
  const Dim start = draws.below(blocks);
  std::vector<Dim> chosen;
  for (Dim j = 0; static_cast<Dim>(chosen.size()) < problem.model.top_k; ++j) {
    std::vector<Dim> pool = experts_of_block(problem, (start + j) % blocks);
    while (!pool.empty() && static_cast<Dim>(chosen.size()) < problem.model.top_k) chosen.push_back(draws.take(pool));
  }
  return chosen;
}

// Popularity of expert e is 1 / (e + 1), in fixed-point so that no libm decides.
std::vector<Dim> zipf(const Problem& problem, Draws& draws) {
  constexpr Dim kUnit = 1 << 16;
  std::vector<Dim> pool = all_experts(problem);
  std::vector<Dim> chosen;
  while (static_cast<Dim>(chosen.size()) < problem.model.top_k) {
    Dim total = 0;
    for (const Dim e : pool) total += kUnit / (e + 1);
    Dim mark = draws.below(total);
    std::size_t at = 0;
    while (mark >= kUnit / (pool[at] + 1)) mark -= kUnit / (pool[at++] + 1);
    chosen.push_back(pool[at]);
    pool.erase(pool.begin() + static_cast<std::ptrdiff_t>(at));
  }
  return chosen;
}

}  // namespace

bool is_designed(const Problem& problem) {
  return problem.routing != Routing::kNatural || problem.values != model::Values::kNormal;
}

WantedExperts wanted_experts(const Problem& problem, Dim token) {
  Draws draws(problem, token);
  const Dim top_k = problem.model.top_k;
  std::vector<Dim> pool = all_experts(problem);
  switch (problem.routing) {
    case Routing::kNatural: return {take_many(draws, pool, top_k), -1};
    case Routing::kKRanks: return {on_different_ranks(problem, draws), -1};
    case Routing::kOneRank: return {on_one_rank(problem, draws), -1};
    case Routing::kZipf: return {zipf(problem, draws), -1};
    case Routing::kIdleExpert:
      std::erase(pool, fixed_choice(problem, problem.model.num_experts));
      return {take_many(draws, pool, top_k), -1};
    case Routing::kIdleRank:
      for (const Dim idle : experts_of_block(problem, fixed_choice(problem, num_blocks(problem)))) std::erase(pool, idle);
      return {take_many(draws, pool, top_k), -1};
    case Routing::kOneExpert: {
      const Dim favourite = fixed_choice(problem, problem.model.num_experts);
      std::erase(pool, favourite);
      WantedExperts wanted{{favourite}, -1};
      for (const Dim e : take_many(draws, pool, top_k - 1)) wanted.chosen.push_back(e);
      return wanted;
    }
    case Routing::kTies: {
      WantedExperts wanted{take_many(draws, pool, top_k + 1), -1};
      wanted.tied = wanted.chosen.back();
      wanted.chosen.pop_back();
      return wanted;
    }
  }
  MOECHECK_REQUIRE(false, "routing without a pattern");
  return {};
}

}  // namespace moecheck::inputs
