#include "harness/check/hypothesis.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "harness/check/place.h"
#include "harness/tolerance/bounds.h"

namespace moecheck::check {
namespace {

using Row = std::vector<double>;

// A candidate explains a row if what is left is this much smaller than what was to be explained: a guess for a reader, never
// a verdict.
constexpr double kExplained = 0.05;

Row row_of(const base::HostTensor& tensor, Dim row) {
  const Dim columns = tensor.numel() / tensor.dim(0);
  Row values(static_cast<std::size_t>(columns));
  for (Dim i = 0; i < columns; ++i) values[static_cast<std::size_t>(i)] = tensor.at(row * columns + i);
  return values;
}

double distance(const Row& a, const Row& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(sum);
}

double norm(const Row& a) { return distance(a, Row(a.size(), 0.0)); }

Row scaled(double factor, const Row& a) {
  Row result = a;
  for (double& value : result) value *= factor;
  return result;
}

Row difference(const Row& a, const Row& b) {
  Row result = a;
  for (std::size_t i = 0; i < a.size(); ++i) result[i] -= b[i];
  return result;
}

bool explains(const Row& candidate, const Row& got, const Row& want) {
  const double error = distance(got, want);
  return candidate.size() == got.size() && error > 0 && tolerance::within(distance(candidate, got), kExplained * error);
}

// The residual of a sum is +- one summand: that one was counted twice, or lost.
std::string summand_clause(const Row& residual, const Row& summand, std::string_view name) {
  const double size = norm(summand);
  if (size == 0) return "";
  if (tolerance::within(distance(residual, scaled(-1, summand)), kExplained * size)) return fmt::format("{} is missing", name);
  if (tolerance::within(distance(residual, summand), kExplained * size)) return fmt::format("{} is counted twice", name);
  return "";
}

// A row that an expert made.
struct ExpertRow {
  RowKey key;
  Row out;
};

// Rows of a token that a rank may have summed: those that it computed, or with all-to-all those of its whole layer group.
std::vector<ExpertRow> expert_rows(const CheckInput& input, Dim rank, Dim token) {
  std::vector<ExpertRow> found;
  for (const Dim member : is_all_to_all(input) ? input.one.problem.layer_group(rank) : std::vector<Dim>{rank}) {
    const auto* rows_R3 = fitting_tensor(input, member, "dispatch/rows_R3");
    const auto* out_RD = fitting_tensor(input, member, "experts/out_RD");
    if (rows_R3 == nullptr || out_RD == nullptr || rows_R3->dim(0) != out_RD->dim(0)) continue;
    for (Dim row = 0; row < rows_R3->dim(0); ++row)
      if (const RowKey key = row_key(*rows_R3, row); key.token == token && !is_padding(key)) found.push_back({key, row_of(*out_RD, row)});
  }
  return found;
}

// The token that a row of a tap of tokens is about; -1 if the rank does not say.
Dim token_of(const CheckInput& input, const Deviation& d) {
  record::Finding finding;
  finding.rank = d.rank;
  set_place(input, d.tap, d.row, finding);
  return finding.token.value_or(-1);
}

std::string combine_clause(const CheckInput& input, const Deviation& d, const Row& residual) {
  const Dim token = token_of(input, d);
  const GroupRouting routing(input, d.rank);
  if (!routing.is_known(token)) return "";
  const TokenRow owner = routing.tokens().at(token);
  const auto* scores_TK = fitting_tensor(input, owner.rank, "router/scores_TK");
  if (scores_TK == nullptr) return "";
  const bool is_weighted_here = input.one.problem.score_position == model::ScorePosition::kAfterExperts;
  for (const ExpertRow& row : expert_rows(input, d.rank, token)) {
    if (row.key.slot < 0 || row.key.slot >= scores_TK->dim(1)) continue;
    const double score = is_weighted_here ? scores_TK->at(owner.row * scores_TK->dim(1) + row.key.slot) : 1;
    const std::string name = fmt::format("the contribution of expert {}, slot {},", row.key.expert, row.key.slot);
    if (auto clause = summand_clause(residual, scaled(score, row.out), name); !clause.empty()) return clause;
    if (explains(difference(residual, scaled(1 - score, row.out)), Row(residual.size(), 0.0), residual))
      return name + " is not weighted by its score";
  }
  return "";
}

std::string output_clause(const CheckInput& input, const Deviation& d, const Row& residual) {
  const Dim token = token_of(input, d);
  for (const Dim rank : input.one.problem.layer_group(d.rank)) {
    const auto* partial_TD = fitting_tensor(input, rank, "combine/partial_TD");
    if (partial_TD == nullptr) continue;
    const auto tokens = trace::slot_tokens(input.one.problem, *rank_trace(input, rank));
    const Dim row = std::ranges::find(tokens, token) - tokens.begin();
    if (row >= partial_TD->dim(0) || row >= static_cast<Dim>(tokens.size())) continue;
    const std::string name = fmt::format("the partial result of rank {}", rank);
    if (auto clause = summand_clause(residual, row_of(*partial_TD, row), name); !clause.empty()) return clause;
  }
  return "";
}

// gate_up: the two halves of the row changed places.
std::string halves_clause(const Row& want, const Row& got) {
  Row swapped = want;
  std::ranges::rotate(swapped, swapped.begin() + static_cast<std::ptrdiff_t>(swapped.size() / 2));
  return explains(swapped, got, want) ? "gate and up are swapped" : "";
}

// act: gate and up changed places.
std::string activation_clause(const CheckInput& input, const Deviation& d, const Row& want, const Row& got) {
  const auto* gate_up_RG = fitting_tensor(input, d.rank, "experts/gate_up_RG");
  if (gate_up_RG == nullptr || d.row >= gate_up_RG->dim(0)) return "";
  if (static_cast<std::size_t>(gate_up_RG->dim(1)) != 2 * want.size()) return "";
  const Row gate_up = row_of(*gate_up_RG, d.row);
  const model::Activation& activation = input.one.problem.model.activation;
  Row swapped = want;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double gate = std::min(gate_up[want.size() + i], activation.limit);
    const double up = std::clamp(gate_up[i], -activation.limit, activation.limit) + activation.up_shift;
    swapped[i] = up * gate / (1 + std::exp(-activation.alpha * gate));
  }
  return explains(swapped, got, want) ? "gate and up are swapped" : "";
}

std::string row_name(const CheckInput& input, const Deviation& d, Dim row) {
  record::Finding finding;
  finding.rank = d.rank;
  set_place(input, d.tap, row, finding);
  if (!finding.token) return fmt::format("row {}", row);
  if (!finding.slot) return fmt::format("token {}", *finding.token);
  return fmt::format("token {}, slot {}, expert {}", *finding.token, *finding.slot, finding.expert.value_or(-1));
}

// The values belong to another row.
std::string other_row_clause(const CheckInput& input, const Deviation& d, const Row& want, const Row& got) {
  constexpr Dim kMostRows = 4096;  // a search over all rows has to stay cheap
  for (Dim row = 0; row < std::min(d.expected.value.dim(0), kMostRows); ++row)
    if (row != d.row && explains(row_of(d.expected.value, row), got, want))
      return fmt::format("equals the value of {}", row_name(input, d, row));
  return "";
}

std::string permuted_clause(const Row& want, const Row& got) {
  Row sorted_want = want, sorted_got = got;
  std::ranges::sort(sorted_want);
  std::ranges::sort(sorted_got);
  const double error = distance(want, got);
  const bool is_permuted = error > 0 && tolerance::within(distance(sorted_want, sorted_got), kExplained * error);
  return is_permuted ? "the same values in other places of the row" : "";
}

}  // namespace

std::string ratio_clause(const Row& want, const Row& got, const model::Problem& problem) {
  if (norm(want) == 0) return "";
  if (norm(got) == 0) return "contribution missing: all of the row is 0";
  const auto k = static_cast<double>(problem.model.top_k);
  struct Ratio {
    double factor;
    std::string name;
  };
  std::vector<Ratio> ratios = {{-1, "sign flipped"}, {2, "2 times"}, {0.5, "1/2 of"}, {k, "top_k times"}, {1 / k, "1/top_k of"}};
  for (const model::MeshDim& dim : problem.mesh.dims()) {
    ratios.push_back({static_cast<double>(dim.size), dim.name + " times"});
    ratios.push_back({1 / static_cast<double>(dim.size), fmt::format("1/{} of", dim.name)});
  }
  for (const Ratio& ratio : ratios) {
    if (ratio.factor == 1 || !explains(scaled(ratio.factor, want), got, want)) continue;
    return ratio.factor < 0 ? ratio.name : fmt::format("{} the expected value", ratio.name);
  }
  return "";
}

std::string hypothesis_for(const CheckInput& input, const Deviation& d) {
  const Row want = row_of(d.expected.value, d.row);
  const Row got = row_of(d.got, d.row);
  if (!std::ranges::all_of(got, [](double v) { return std::isfinite(v); }))
    return "NaN or Inf from finite inputs: unwritten memory or overflow";
  const Row residual = difference(got, want);
  // The stage's own explanation says more than a ratio: with two ranks, a lost partial may look like one half.
  std::vector<std::string> clauses;
  if (d.tap == "combine/partial_TD") clauses.push_back(combine_clause(input, d, residual));
  if (d.tap == "output/y_TD") clauses.push_back(output_clause(input, d, residual));
  if (d.tap == "experts/gate_up_RG") clauses.push_back(halves_clause(want, got));
  if (d.tap == "experts/act_RF") clauses.push_back(activation_clause(input, d, want, got));
  clauses.push_back(ratio_clause(want, got, input.one.problem));
  clauses.push_back(other_row_clause(input, d, want, got));
  clauses.push_back(permuted_clause(want, got));
  const auto found = std::ranges::find_if(clauses, [](const std::string& clause) { return !clause.empty(); });
  return found == clauses.end() ? "" : *found;
}

}  // namespace moecheck::check
