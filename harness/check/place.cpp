#include "harness/check/place.h"

#include <algorithm>

#include "harness/check/readable.h"
#include "harness/trace/tap_points.h"

namespace moecheck::check {
namespace {

constexpr std::string_view kCombined = "combine/rows_N3";

bool holds_token(const model::Problem& problem, Dim rank, Dim token) {
  const Dim first = problem.first_token(rank);
  return token >= first && token < first + problem.num_tokens(rank);
}

void set_param_place(const CheckInput& input, std::string_view tap, Dim row, record::Finding& finding) {
  if (!tap.ends_with("router/w_ED") && tap.find("/experts/") == std::string_view::npos) return;
  const auto held = trace::declared_indices(input.one.problem, tap, *finding.rank, 0);
  if (row < static_cast<Dim>(held.size())) finding.expert = held[static_cast<std::size_t>(row)];
}

}  // namespace

void set_place(const RowKey& key, record::Finding& finding) {
  finding.token = key.token;
  finding.slot = key.slot;
  finding.expert = key.expert;
}

void set_place(const CheckInput& input, std::string_view tap, Dim row, record::Finding& finding) {
  const trace::TapPoint* point = trace::find_tap(tap);
  const trace::RankTrace* seen = rank_trace(input, *finding.rank);
  if (point == nullptr || seen == nullptr || row < 0) return;
  if (point->kind == trace::TapKind::kParam) return set_param_place(input, tap, row, finding);
  if (point->kind == trace::TapKind::kRows || tap == kCombined) {
    const auto* keys = fitting_tensor(input, *finding.rank, tap == kCombined ? kCombined : "dispatch/rows_R3");
    if (keys != nullptr && row < keys->dim(0)) set_place(row_key(*keys, row), finding);
  } else if (point->kind == trace::TapKind::kTokens && point->dims.starts_with("S")) {
    const auto tokens = trace::slot_tokens(input.one.problem, *seen);
    if (row < static_cast<Dim>(tokens.size())) finding.token = tokens[static_cast<std::size_t>(row)];
  } else if (point->kind == trace::TapKind::kTokens) {
    finding.token = input.one.problem.first_token(*finding.rank) + row;
  }
}

GroupRouting::GroupRouting(const CheckInput& input, Dim rank) : input_(input), group_(input.one.problem.layer_group(rank)) {
  const model::Problem& problem = input.one.problem;
  std::vector<Dim> own_first = group_;
  std::ranges::stable_partition(own_first, [&](Dim member) { return member == rank; });
  for (const Dim member : own_first) {
    ids_TK_[member] = fitting_tensor(input, member, "router/ids_TK");
    for (Dim row = 0; row < problem.num_tokens(member); ++row) tokens_.try_emplace(problem.first_token(member) + row, TokenRow{member, row});
  }
}

bool GroupRouting::is_known(Dim token) const {
  const auto found = tokens_.find(token);
  return found != tokens_.end() && ids_TK_.at(found->second.rank) != nullptr;
}

Dim GroupRouting::expert_of(Dim token, Dim slot) const {
  const Dim top_k = input_.one.problem.model.top_k;
  if (!is_known(token) || slot < 0 || slot >= top_k) return -1;
  const TokenRow at = tokens_.at(token);
  return ids_TK_.at(at.rank)->int_at(at.row * top_k + slot);
}

std::vector<Dim> GroupRouting::owners(Dim token) const {
  std::vector<Dim> owners;
  for (const Dim member : group_)
    if (holds_token(input_.one.problem, member, token)) owners.push_back(member);
  return owners;
}

}  // namespace moecheck::check
