#include "reference/observed_layer.h"

#include <algorithm>

#include "harness/trace/layout.h"

namespace moecheck::reference {

ObservedLayer::ObservedLayer(const model::Problem& problem, const trace::Trace& trace) : problem_(problem) {
  for (std::size_t r = 0; r < trace.ranks.size(); ++r) {
    ranks_.push_back(decode_rank(problem, static_cast<Dim>(r), trace.ranks[r]));
    layer_groups_.push_back(problem.layer_group(static_cast<Dim>(r)));
    std::ranges::sort(layer_groups_.back());
  }
  const bool rows_come_back = std::ranges::any_of(ranks_, [](const ObservedRank& seen) { return seen.combined_N.has_value(); });
  if (!rows_come_back) return;
  for (const ObservedRank& seen : ranks_) {
    if (!seen.rows_R) continue;
    for (std::size_t i = 0; i < seen.rows_R->keys.size(); ++i) {
      const RoutedRow& key = seen.rows_R->keys[i];
      if (seen.rows_R->is_routed[i] != 0) computed_[{key.token, key.slot, key.expert}].push_back({seen.rank, static_cast<Dim>(i)});
    }
  }
}

const ObservedRank* ObservedLayer::find(Dim rank) const {
  return rank >= 0 && rank < static_cast<Dim>(ranks_.size()) ? &ranks_[static_cast<std::size_t>(rank)] : nullptr;
}

std::vector<const ObservedRank*> ObservedLayer::layer_group(const ObservedRank& seen) const {
  std::vector<const ObservedRank*> group;
  for (const Dim member : layer_groups_[static_cast<std::size_t>(seen.rank)]) group.push_back(find(member));
  return group;
}

std::optional<RecordedRow> ObservedLayer::token_row(const ObservedRank& seen, Dim token, TokenTap tap) const {
  if (seen.owns(token) && seen.*tap) return RecordedRow{&seen, &*(seen.*tap), token - seen.first_token};
  for (const ObservedRank* member : layer_group(seen))
    if (member != nullptr && member->owns(token) && member->*tap) return RecordedRow{member, &*(member->*tap), token - member->first_token};
  return std::nullopt;
}

std::optional<RecordedRow> ObservedLayer::expert_input(const ObservedRank& seen, Dim row) const {
  if (seen.in_RD) return RecordedRow{&seen, &*seen.in_RD, row};
  if (weighs_before()) return std::nullopt;
  return token_row(seen, seen.rows_R->keys[static_cast<std::size_t>(row)].token, &ObservedRank::x_TD);
}

std::optional<double> ObservedLayer::score_of(const ObservedRank& seen, const RoutedRow& key) const {
  const auto scores_K = token_row(seen, key.token, &ObservedRank::scores_TK);
  if (!scores_K) return std::nullopt;
  return (*scores_K->matrix)(scores_K->row, key.slot);
}

const KeyedRows* ObservedLayer::combined_rows(const ObservedRank& seen) const {
  if (seen.combined_N) return &*seen.combined_N;
  return seen.rows_R ? &*seen.rows_R : nullptr;
}

bool ObservedLayer::may_send(const Place& place, const ObservedRank& to) const {
  const auto& group = layer_groups_[static_cast<std::size_t>(to.rank)];
  if (std::ranges::find(group, place.rank) == group.end()) return false;
  return !problem_.cuts_experts() || problem_.mesh.coordinate(place.rank, "tp") == problem_.mesh.coordinate(to.rank, "tp");
}

std::optional<RecordedRow> ObservedLayer::combined_output(const ObservedRank& seen, std::size_t i) const {
  if (!seen.combined_N) {
    if (!seen.out_RD) return std::nullopt;
    return RecordedRow{&seen, &*seen.out_RD, static_cast<Dim>(i)};
  }
  const RoutedRow& key = seen.combined_N->keys[i];
  const auto found = computed_.find({key.token, key.slot, key.expert});
  if (found == computed_.end()) return std::nullopt;
  std::optional<RecordedRow> source;
  for (const Place& place : found->second) {
    const ObservedRank& other = *find(place.rank);
    if (!other.out_RD || !may_send(place, seen)) continue;
    // Several computed it: the one that should have.
    const bool has_expert = trace::local_experts(problem_, place.rank).has(key.expert);
    if (!source || has_expert) source = RecordedRow{&other, &*other.out_RD, place.row};
    if (has_expert) break;
  }
  return source;
}

}  // namespace moecheck::reference
