#include "harness/check/held_weights.h"

#include <algorithm>
#include <cmath>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace moecheck::check {
namespace {

constexpr Dim kNobody = -1;
constexpr Dim kNeverLoaded = -2;

// Rows in a row that come from consecutive rows of one expert, or from nobody.
struct Run {
  Dim first = 0;        // global row that belongs there
  Dim last = 0;
  Dim from_expert = kNobody;
  Dim from_first = 0;
  Dim from_last = 0;
};

bool continues(const Run& run, Dim row, const RowHashes::Place& from) {
  return run.last + 1 == row && run.from_expert == from.expert && (from.expert < 0 || run.from_last + 1 == from.row);
}

// Among equal rows, the one that continues the run before; else one of the same expert.
RowHashes::Place best_place(const std::vector<RowHashes::Place>& places, const std::vector<Run>& runs, Dim row, Dim expert) {
  if (places.empty()) return {kNobody, 0};
  for (const auto& place : places)
    if (!runs.empty() && continues(runs.back(), row, place)) return place;
  for (const auto& place : places)
    if (place.expert == expert) return place;
  return places.front();
}

// Rows that are not what belongs there, and whose they are.
std::vector<Run> runs_of(const RowHashes& known, const ExpertPart& part, Dim expert, const LocalRows& local) {
  std::vector<Run> runs;
  for (Dim i = 0; i < local.count; ++i) {
    const Dim row = part.rows[static_cast<std::size_t>(i)];
    const std::uint64_t hash = hash_of(local.bytes(i));
    if (known.at(expert, row) == hash) continue;
    const auto from = local.are_blank(i, i + 1) ? RowHashes::Place{kNeverLoaded, 0} : best_place(known.places(hash), runs, row, expert);
    if (!runs.empty() && continues(runs.back(), row, from)) {
      runs.back().last = row;
      runs.back().from_last = from.row;
    } else {
      runs.push_back({row, row, from.expert, from.row, from.row});
    }
  }
  return runs;
}

// The wrong rows changed places among themselves.
bool is_permutation(const std::vector<Run>& runs, Dim expert) {
  std::set<Dim> to, from;
  for (const Run& run : runs) {
    if (run.from_expert != expert) return false;
    for (Dim i = 0; i <= run.last - run.first; ++i) {
      to.insert(run.first + i);
      from.insert(run.from_first + i);
    }
  }
  return to == from;
}

// "as tp rank 1 slices it": what tells the two ranks apart.
std::string slicing_text(const model::Mesh& mesh, Dim rank, Dim as_rank) {
  std::string who;
  for (const std::string_view dim : {"tp", "fsdp", "ep"})
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
  const Dim last = static_cast<Dim>(trace::global_param_shape(problem.model, tap).size()) - 1;
  const auto columns = trace::declared_indices(problem, tap, rank, last);
  return {trace::declared_indices(problem, tap, rank, last - 1), {columns.empty() ? 0 : columns.front(), static_cast<Dim>(columns.size())}};
}

std::span<const std::byte> row_of_tensor(const base::HostTensor& tensor, Dim row) {
  const std::size_t size = static_cast<std::size_t>(tensor.shape().back()) * base::itemsize(tensor.dtype());
  return tensor.bytes().subspan(static_cast<std::size_t>(row) * size, size);
}

std::span<const std::byte> LocalRows::bytes(Dim row) const { return row_of_tensor(tensor, first + row); }

bool LocalRows::are_blank(Dim from, Dim to) const {
  const Dim columns = tensor.shape().back();
  if (!base::is_floating(tensor.dtype()) || from == to || columns == 0) return false;
  for (Dim i = (first + from) * columns; i < (first + to) * columns; ++i)
    if (!std::isnan(tensor.at(i))) return false;
  return true;
}

HeldWeights::HeldWeights(const model::Problem& problem, std::string_view tap, WeightRows& rows) : problem_(problem), tap_(tap), rows_(rows) {}

const RowHashes& HeldWeights::hashes(Columns columns) {
  const auto found = by_first_column_.find(columns.first);
  if (found != by_first_column_.end()) return found->second;
  return by_first_column_.emplace(columns.first, RowHashes(rows_, columns)).first->second;
}

Held HeldWeights::identify(Dim rank, Dim expert, const LocalRows& local) {
  const auto is_zero = [](std::byte b) { return b == std::byte{0}; };
  bool are_zeros = true;
  for (Dim i = 0; i < local.count; ++i) are_zeros = are_zeros && std::ranges::all_of(local.bytes(i), is_zero);
  // Experts without tokens have states of zeros: whose these are cannot be told.
  if (are_zeros) return {-1, "hold zeros"};
  if (local.are_blank(0, local.count)) return {-1, "were never loaded (NaN)"};
  // The rank's own slice of another expert first, then what the other ranks that cut the tensor should hold.
  std::vector<Dim> as_ranks = problem_.mesh.group(rank, rows_.num_experts() > 1 ? "tp,fsdp" : "tp,fsdp,ep");
  std::ranges::stable_partition(as_ranks, [&](Dim other) { return other == rank; });
  for (const Dim as_rank : as_ranks) {
    const ExpertPart part = part_of_rank(problem_, tap_, as_rank);
    const RowHashes& known = hashes(part.columns);
    for (Dim e = 0; e < rows_.num_experts(); ++e) {
      bool same = local.count == static_cast<Dim>(part.rows.size());
      for (Dim i = 0; same && i < local.count; ++i) same = known.at(e, part.rows[static_cast<std::size_t>(i)]) == hash_of(local.bytes(i));
      if (!same) continue;
      if (as_rank == rank) return {e, ""};
      return {e, slicing_text(problem_.mesh, rank, as_rank)};
    }
  }
  return identify_rows(part_of_rank(problem_, tap_, rank), expert, local);
}

Held HeldWeights::identify_rows(const ExpertPart& part, Dim expert, const LocalRows& local) {
  const RowHashes& known = hashes(part.columns);
  const std::vector<Run> runs = runs_of(known, part, expert, local);
  if (runs.size() == 1 && runs[0].from_expert == kNobody && runs[0].last - runs[0].first + 1 == local.count) return {-1, "hold nobody's values"};
  constexpr std::size_t kMostRuns = 3;  // more is a shuffle, and the first ones tell
  std::vector<std::string> clauses;
  for (const Run& run : runs) {
    if (clauses.size() == kMostRuns) break;
    std::string held = "nobody's values";
    if (run.from_expert >= 0) held = row_name(run.from_first, run.from_last);
    if (run.from_expert >= 0 && run.from_expert != expert) held += fmt::format(" of expert {}", run.from_expert);
    const std::string rows = row_name(run.first, run.last);
    const bool is_one = run.first == run.last;
    clauses.push_back(run.from_expert == kNeverLoaded ? fmt::format("{} {} never loaded (NaN)", rows, is_one ? "was" : "were")
                                                      : fmt::format("{} {} {}", rows, is_one ? "holds" : "hold", held));
  }
  return {-1, fmt::format("{}{}{}", is_permutation(runs, expert) ? "rows permuted: " : "", fmt::join(clauses, ", "),
                          runs.size() > kMostRuns ? ", ..." : "")};
}

std::string HeldWeights::row_name(Dim first, Dim last) const {
  const Dim d_ff = problem_.model.d_ff;
  if (trace::parameter_of(tap_) != "param/experts/gate_up_EGD") return range_text("row", first, last);
  if (last < d_ff) return range_text("gate row", first, last);
  if (first >= d_ff) return range_text("up row", first - d_ff, last - d_ff);
  return range_text("packed row", first, last);
}

std::string range_text(std::string_view noun, Dim first, Dim last) {
  return first == last ? fmt::format("{} {}", noun, first) : fmt::format("{}s {}..{}", noun, first, last);
}

}  // namespace moecheck::check
