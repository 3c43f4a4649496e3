#include "harness/check/held_weights.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace moecheck::check {
namespace {

// Rows in a row that come from consecutive rows of one expert, or from nobody.
struct Run {
  Dim first = 0;        // global row that belongs there
  Dim last = 0;
  Dim from_expert = -1; // -1: nobody's
  Dim from_first = 0;
  Dim from_last = 0;
};

bool continues(const Run& run, Dim row, const RowHashes::Place& from) {
  return run.last + 1 == row && run.from_expert == from.expert && (from.expert < 0 || run.from_last + 1 == from.row);
}

// Among equal rows, the one that continues the run before; else one of the same expert.
RowHashes::Place best_place(const std::vector<RowHashes::Place>& places, const std::vector<Run>& runs, Dim row, Dim expert) {
  if (places.empty()) return {-1, 0};
  for (const auto& place : places)
    if (!runs.empty() && continues(runs.back(), row, place)) return place;
  for (const auto& place : places)
    if (place.expert == expert) return place;
  return places.front();
}

// "as tp rank 1 slices it": what tells the two ranks apart.
std::string slicing_text(const model::Mesh& mesh, Dim rank, Dim as_rank) {
  std::string who;
  for (const std::string_view dim : {"tp", "fsdp"})
    if (mesh.coordinate(as_rank, dim) != mesh.coordinate(rank, dim))
      who += fmt::format("{}{} rank {}", who.empty() ? "" : ", ", dim, mesh.coordinate(as_rank, dim));
  return fmt::format("as {} slices it", who);
}

}  // namespace

RowHashes::RowHashes(WeightRows& rows, Columns columns) : num_rows_(rows.num_rows()) {
  hashes_.reserve(static_cast<std::size_t>(rows.num_experts() * num_rows_));
  for (Dim expert = 0; expert < rows.num_experts(); ++expert)
    for (Dim row = 0; row < num_rows_; ++row) {
      hashes_.push_back(hash_of(rows.bytes(expert, row, columns)));
      places_[hashes_.back()].push_back({expert, row});
    }
}

const std::vector<RowHashes::Place>& RowHashes::places(std::uint64_t hash) const {
  static const std::vector<Place> nobody;
  const auto found = places_.find(hash);
  return found == places_.end() ? nobody : found->second;
}

ExpertPart part_of_rank(const model::Problem& problem, std::string_view tap, Dim rank) {
  const auto columns = trace::declared_indices(problem, tap, rank, 2);
  return {trace::declared_indices(problem, tap, rank, 1), {columns.front(), static_cast<Dim>(columns.size())}};
}

HeldWeights::HeldWeights(const inputs::Generator& generator, std::string_view tap)
    : problem_(generator.problem()), tap_(tap), rows_(generator, tap) {}

const RowHashes& HeldWeights::hashes(Columns columns) {
  const auto found = by_first_column_.find(columns.first);
  if (found != by_first_column_.end()) return found->second;
  return by_first_column_.emplace(columns.first, RowHashes(rows_, columns)).first->second;
}

Held HeldWeights::identify(Dim rank, Dim expert, const std::vector<std::span<const std::byte>>& local_rows) {
  std::vector<std::uint64_t> local;
  bool is_zero = true;
  for (const auto row : local_rows) {
    local.push_back(hash_of(row));
    is_zero = is_zero && std::ranges::all_of(row, [](std::byte b) { return b == std::byte{0}; });
  }
  // The rank's own slice of another expert first, then what the other ranks that cut the experts should hold.
  std::vector<Dim> as_ranks = problem_.mesh.group(rank, "tp,fsdp");
  std::ranges::stable_partition(as_ranks, [&](Dim other) { return other == rank; });
  for (const Dim as_rank : as_ranks) {
    const ExpertPart part = part_of_rank(problem_, tap_, as_rank);
    const RowHashes& known = hashes(part.columns);
    for (Dim e = 0; e < rows_.num_experts(); ++e) {
      bool same = local.size() == part.rows.size();
      for (std::size_t i = 0; same && i < local.size(); ++i) same = known.at(e, part.rows[i]) == local[i];
      if (!same) continue;
      if (as_rank == rank) return {e, ""};
      return {e, slicing_text(problem_.mesh, rank, as_rank)};
    }
  }
  return identify_rows(part_of_rank(problem_, tap_, rank), expert, local, is_zero);
}

Held HeldWeights::identify_rows(const ExpertPart& part, Dim expert, const std::vector<std::uint64_t>& local, bool is_zero) {
  if (is_zero) return {-1, "hold zeros"};
  const RowHashes& known = hashes(part.columns);
  std::vector<Run> runs;
  for (std::size_t i = 0; i < local.size(); ++i) {
    const Dim row = part.rows[i];
    if (known.at(expert, row) == local[i]) continue;
    const auto from = best_place(known.places(local[i]), runs, row, expert);
    if (!runs.empty() && continues(runs.back(), row, from)) {
      runs.back().last = row;
      runs.back().from_last = from.row;
    } else {
      runs.push_back({row, row, from.expert, from.row, from.row});
    }
  }
  constexpr std::size_t kMostRuns = 3;  // more is a shuffle, and the first ones tell
  std::vector<std::string> clauses;
  for (const Run& run : runs) {
    if (clauses.size() == kMostRuns) break;
    std::string from = "nobody's values";
    if (run.from_expert >= 0) from = row_name(run.from_first, run.from_last);
    if (run.from_expert >= 0 && run.from_expert != expert) from += fmt::format(" of expert {}", run.from_expert);
    clauses.push_back(fmt::format("{} hold {}", row_name(run.first, run.last), from));
  }
  if (runs.size() == 1 && runs[0].from_expert < 0 && runs[0].last - runs[0].first + 1 == static_cast<Dim>(local.size()))
    return {-1, "hold nobody's values"};
  return {-1, fmt::format("{}{}", fmt::join(clauses, ", "), runs.size() > kMostRuns ? ", ..." : "")};
}

std::string HeldWeights::row_name(Dim first, Dim last) const {
  const Dim d_ff = problem_.model.d_ff;
  if (tap_ != "param/experts/gate_up_EGD") return range_text("row", first, last);
  if (last < d_ff) return range_text("gate row", first, last);
  if (first >= d_ff) return range_text("up row", first - d_ff, last - d_ff);
  return range_text("packed row", first, last);
}

std::string range_text(std::string_view noun, Dim first, Dim last) {
  return first == last ? fmt::format("{} {}", noun, first) : fmt::format("{}s {}..{}", noun, first, last);
}

}  // namespace moecheck::check
