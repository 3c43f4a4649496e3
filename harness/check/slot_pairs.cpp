#include "harness/check/slot_pairs.h"

#include <map>

#include <fmt/format.h>

#include "harness/check/compare.h"
#include "harness/check/place.h"
#include "harness/check/readable.h"

namespace moecheck::check {
namespace {

constexpr std::string_view kScores = "router/scores_TK";
constexpr std::string_view kGathered = "dispatch/tokens_S";
constexpr std::string_view kLocalScores = "dispatch/scores_TK";
constexpr std::string_view kLocalIds = "dispatch/ids_TK";

struct Slot {
  Dim n = -1;  // row of the tap * K + slot; -1: none
  std::string why;
  double want = 0, got = 0;
};

// A rank's slots that a tap speaks about: of its own tokens, or of all that it gathered.
struct Slots {
  const CheckInput& input;
  std::string_view check;
  Dim rank;
  std::vector<Dim> tokens;   // by row
  const GroupRouting& routing;

  Dim top_k() const { return input.one.problem.model.top_k; }
  Dim count() const { return static_cast<Dim>(tokens.size()) * top_k(); }
  Dim token(Dim n) const { return tokens[static_cast<std::size_t>(n / top_k())]; }
  Dim expert(Dim n) const { return routing.expert_of(token(n), n % top_k()); }
};

void report(const Slots& slots, std::string_view tap, const Slot& first, Dim count, std::vector<record::Finding>& findings) {
  if (first.n < 0) return;
  auto finding = make_finding(slots.check, tap, slots.rank, fmt::format("{}; {} of the rank's slots are wrong", first.why, count));
  set_place({slots.token(first.n), first.n % slots.top_k(), slots.expert(first.n)}, finding);
  finding.want = first.want;
  finding.got = first.got;
  finding.measured = static_cast<double>(count);
  finding.compared = slots.count();
  findings.push_back(std::move(finding));
}

// The pairs that an experts forward forms when it flattens scores and ids, whatever the shape of the scores.
void look_at_scores(const Slots& slots, const base::HostTensor& given, std::vector<record::Finding>& findings) {
  const trace::LocalExperts local = trace::local_experts(slots.input.one.problem, slots.rank);
  Slot first;
  Dim count = 0;
  for (Dim n = 0; n < slots.count(); ++n) {
    if (!slots.routing.is_known(slots.token(n))) continue;
    const TokenRow owner = slots.routing.tokens().at(slots.token(n));
    const base::HostTensor* scores_TK = fitting_tensor(slots.input, owner.rank, kScores);
    if (scores_TK == nullptr) continue;
    const Dim at = owner.row * slots.top_k() + n % slots.top_k();
    const bool is_local = local.has(slots.expert(n));
    const bool is_there = n < given.numel();
    if (is_there && (is_local ? same_element_bits(*scores_TK, at, given, n) : given.at(n) == 0)) continue;
    if (++count > 1) continue;
    first = {n,
             is_local ? "the score of a local expert is not the router's" : "the slot of an expert that lives elsewhere has a score",
             is_local ? scores_TK->at(at) : 0.0, is_there ? given.at(n) : 0.0};
  }
  const base::Shape declared = {static_cast<Dim>(slots.tokens.size()), slots.top_k()};
  if (given.shape() != declared && first.n >= 0)
    first.why = fmt::format("scores {} beside ids {}: flattened, a score meets another slot's expert", base::shape_text(given.shape()),
                            base::shape_text(declared));
  report(slots, kLocalScores, first, count, findings);
}

void look_at_local_ids(const Slots& slots, const base::HostTensor& given, std::vector<record::Finding>& findings) {
  const trace::LocalExperts local = trace::local_experts(slots.input.one.problem, slots.rank);
  Slot first;
  Dim count = 0;
  for (Dim n = 0; n < slots.count(); ++n) {
    if (!slots.routing.is_known(slots.token(n))) continue;
    const Dim want = local.has(slots.expert(n)) ? slots.expert(n) - local.first : local.count;
    const Dim got = given.int_at(n);
    if (got == want || ++count > 1) continue;
    first = {n, fmt::format("local id {}, declared {} ({})", got, want, want == local.count ? "the sentinel" : "local"),
             static_cast<double>(want), static_cast<double>(got)};
  }
  report(slots, kLocalIds, first, count, findings);
}

// Gathered tokens are all that the ranks of the layer group have between them, each once.
void look_at_gathered(const Slots& slots, std::vector<record::Finding>& findings) {
  std::map<Dim, Dim> times;
  for (const Dim token : slots.tokens) ++times[token];
  for (const auto& [token, at] : slots.routing.tokens()) times.try_emplace(token, 0);
  Dim wrong = 0;
  auto finding = make_finding(slots.check, kGathered, slots.rank, "");
  for (const auto& [token, count] : times) {
    const bool is_of_group = slots.routing.tokens().contains(token);
    if (count == (is_of_group ? 1 : 0) || ++wrong > 1) continue;
    finding.token = token;
    finding.message = is_of_group ? fmt::format("the token is gathered {} times, declared once", count) : "no rank of its group has this token";
  }
  if (wrong == 0) return;
  finding.message += fmt::format("; {} tokens are wrong", wrong);
  finding.measured = static_cast<double>(wrong);
  finding.compared = static_cast<std::int64_t>(times.size());
  findings.push_back(std::move(finding));
}

}  // namespace

std::vector<record::Finding> mispaired_slots(const CheckInput& input, std::string_view check, Dim rank) {
  std::vector<record::Finding> findings;
  const trace::RankTrace* seen = rank_trace(input, rank);
  if (seen == nullptr) return findings;
  const GroupRouting routing(input, rank);
  const Slots slots{input, check, rank, trace::slot_tokens(input.one.problem, *seen), routing};
  if (fitting_tensor(input, rank, kGathered) != nullptr) look_at_gathered(slots, findings);
  if (const base::HostTensor* given = seen->tensor(kLocalScores)) look_at_scores(slots, *given, findings);
  if (const base::HostTensor* given = fitting_tensor(input, rank, kLocalIds)) look_at_local_ids(slots, *given, findings);
  return findings;
}

std::vector<record::Finding> uncovered_slots(const CheckInput& input, std::string_view check, const std::vector<Dim>& group) {
  const GroupRouting routing(input, group.front());
  const Dim top_k = input.one.problem.model.top_k;
  std::map<Dim, std::vector<int>> takers;   // by token
  for (const auto& [token, at] : routing.tokens()) takers[token].resize(static_cast<std::size_t>(top_k));
  for (const Dim rank : group) {
    const base::HostTensor* given = fitting_tensor(input, rank, kLocalIds);
    if (given == nullptr || fitting_tensor(input, rank, "router/ids_TK") == nullptr) return {};
    const auto tokens = trace::slot_tokens(input.one.problem, *rank_trace(input, rank));
    for (Dim n = 0; n < given->numel(); ++n) {
      const auto taken = takers.find(tokens[static_cast<std::size_t>(n / top_k)]);
      const bool is_local = given->int_at(n) < trace::local_experts(input.one.problem, rank).count;
      if (is_local && taken != takers.end()) ++taken->second[static_cast<std::size_t>(n % top_k)];
    }
  }
  Slots slots{input, check, group.front(), {}, routing};
  Slot first;
  Dim count = 0;
  for (const auto& [token, taken] : takers) {
    slots.tokens.push_back(token);
    for (Dim slot = 0; slot < top_k; ++slot) {
      const int ranks = taken[static_cast<std::size_t>(slot)];
      if (ranks != 1 && ++count == 1)
        first = {slots.count() - top_k + slot, fmt::format("{} ranks take the slot, declared 1", ranks), 1.0, static_cast<double>(ranks)};
    }
  }
  std::vector<record::Finding> findings;
  report(slots, kLocalIds, first, count, findings);
  return findings;
}

}  // namespace moecheck::check
