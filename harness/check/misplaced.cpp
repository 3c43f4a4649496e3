#include "harness/check/misplaced.h"

#include <cstring>

#include <fmt/format.h>

namespace moecheck::check {
namespace {

bool belongs_to_group(const Misplaced& last, const Misplaced& next) {
  const bool same_shift = last.held.expert < 0 ? next.held.expert < 0 : next.held.expert == last.held.expert + 1;
  return next.expert == last.expert + 1 && last.held.detail == next.held.detail && same_shift;
}

std::string message_for(const Misplaced& first, const Misplaced& last) {
  const std::string who = range_text("expert", first.expert, last.expert);
  if (first.held.expert < 0) return fmt::format("{}: {}", who, first.held.detail);
  return fmt::format("{} {} {}{}{}", who, first.expert == last.expert ? "holds" : "hold",
                     range_text("expert", first.held.expert, last.held.expert), first.held.detail.empty() ? "" : " ", first.held.detail);
}

}  // namespace

ExpertScan::ExpertScan(const model::Problem& problem, std::string_view tap, std::unique_ptr<WeightRows> rows)
    : problem_(problem), tap_(tap), rows_(std::move(rows)), held_(problem, tap, *rows_) {}

std::vector<Misplaced> ExpertScan::misplaced(Dim rank, const base::HostTensor& local) {
  const ExpertPart part = part_of_rank(problem_, tap_, rank);
  const trace::LocalExperts experts = local.shape().size() == 3 ? trace::local_experts(problem_, rank) : trace::LocalExperts{0, 1};
  const auto num_rows = static_cast<Dim>(part.rows.size());
  std::vector<Misplaced> misplaced;
  for (Dim e = 0; e < experts.count; ++e) {
    const LocalRows held{local, e * num_rows, num_rows};
    Dim wrong = 0;
    for (Dim i = 0; i < num_rows; ++i)
      if (!same_row(held.bytes(i), rows_->bytes(experts.first + e, part.rows[static_cast<std::size_t>(i)], part.columns))) ++wrong;
    if (wrong > 0) misplaced.push_back({experts.first + e, wrong, held_.identify(rank, experts.first + e, held)});
  }
  return misplaced;
}

std::vector<MisplacedGroup> group_misplaced(std::span<const Misplaced> misplaced) {
  std::vector<MisplacedGroup> groups;
  for (std::size_t begin = 0; begin < misplaced.size();) {
    std::size_t end = begin + 1;
    while (end < misplaced.size() && belongs_to_group(misplaced[end - 1], misplaced[end])) ++end;
    MisplacedGroup group{misplaced[begin].expert, 0, message_for(misplaced[begin], misplaced[end - 1])};
    for (std::size_t i = begin; i < end; ++i) group.wrong_rows += misplaced[i].wrong_rows;
    groups.push_back(std::move(group));
    begin = end;
  }
  return groups;
}

bool same_row(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace moecheck::check
