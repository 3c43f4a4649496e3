// Proves:       the ranks of every group sent the same collectives in the same order, with the same kind, operation, dtype and
//               call site and with sizes that fit; each rank sent what the implementation declares, and nothing else.
// Cannot prove: that the right numbers were sent; anything about a rank that declares nothing beside what it sent.
// Reads:        collectives, as they ran and as declared      Applies when: a rank shows one, or two ranks would have waited forever
#include <algorithm>
#include <map>
#include <tuple>

#include <fmt/format.h>

#include "harness/check/group_calls.h"
#include "harness/check/readable.h"
#include "harness/trace/tap_points.h"

namespace moecheck::check {
namespace {

constexpr std::string_view kName = "comm_log";
constexpr std::string_view kElsewhere = "comm";

// What one rank does at one site.
using Call = std::tuple<std::string, std::string, std::string>;   // kind, group, site

struct Traffic {
  Dim times = 0;
  Dim bytes = 0;
  bool are_bytes_known = true;
};

void report(CheckOutcome& outcome, const Disagreement& what) {
  auto finding = make_finding(kName, trace::find_tap(what.site) == nullptr ? kElsewhere : std::string_view(what.site), what.rank, what.message);
  finding.tensor = what.site;
  outcome.findings.push_back(std::move(finding));
}

// The member that most others agree with, so that the odd one out is named.
std::size_t leader_of(const GroupCalls& group, bool was_cut) {
  std::size_t best = 0;
  std::ptrdiff_t most = -1;
  for (std::size_t leader = 0; leader < group.ranks.size(); ++leader) {
    std::ptrdiff_t agreeing = 0;
    for (std::size_t member = 0; member < group.ranks.size(); ++member) agreeing += first_disagreement(group, leader, member, was_cut) ? 0 : 1;
    if (agreeing <= most) continue;
    most = agreeing;
    best = leader;
  }
  return best;
}

void look_at_group(const GroupCalls& group, bool was_cut, CheckOutcome& outcome) {
  const std::size_t leader = leader_of(group, was_cut);
  bool is_agreed = true;
  for (std::size_t member = 0; member < group.ranks.size(); ++member) {
    outcome.compared += static_cast<Dim>(group.sent[member].size());
    if (const auto gap = first_gap(group, member)) report(outcome, *gap);
    const auto what = first_disagreement(group, leader, member, was_cut);
    is_agreed = is_agreed && !what;
    if (what) report(outcome, *what);
  }
  // The rows of an all-to-all are agreed upon by two at a time.
  for (std::size_t member = 0; is_agreed && member < group.ranks.size(); ++member)
    for (std::size_t other = 0; other < member; ++other)
      if (const auto what = first_disagreement(group, other, member, was_cut)) report(outcome, *what);
}

std::string name_of(const Call& call) { return fmt::format("{} over {} at {}", std::get<0>(call), std::get<1>(call), std::get<2>(call)); }

std::string traffic_misfit(const Call& call, const Traffic& declared, const Traffic& ran) {
  const auto& [kind, group, site] = call;
  const bool is_reduction = kind == "all_reduce" || kind == "reduce_scatter";
  if (declared.times > 0 && ran.times == 0)
    return fmt::format("declared {} {}, none ran: a missing {}", declared.times, name_of(call), is_reduction ? "reduction" : "collective");
  if (declared.times == 0) return fmt::format("{} {} ran, none is declared: redundant", ran.times, name_of(call));
  if (declared.times != ran.times)
    return fmt::format("declared {} {}, {} ran: {}", declared.times, name_of(call), ran.times,
                       ran.times > declared.times ? "redundant" : is_reduction ? "a missing reduction" : "a missing collective");
  if (declared.are_bytes_known && declared.bytes != ran.bytes)
    return fmt::format("{}: {} bytes, declared {}", name_of(call), ran.bytes, declared.bytes);
  return "";
}

void look_at_declared(const model::Mesh& mesh, const trace::RankTrace& rank, CheckOutcome& outcome) {
  if (rank.declared_comm.empty()) return;
  std::map<Call, std::pair<Traffic, Traffic>> calls;   // declared, ran
  for (const trace::DeclaredCollective& d : rank.declared_comm) {
    if (mesh.size(d.group) < 2) continue;
    Traffic& declared = calls[{d.kind, d.group, d.site}].first;
    declared.times += d.times;
    declared.bytes += d.bytes;
    declared.are_bytes_known = declared.are_bytes_known && d.bytes >= 0;
  }
  for (const trace::Collective& c : rank.comm) {
    if (mesh.size(c.group) < 2) continue;
    Traffic& ran = calls[{c.kind, c.group, c.site}].second;
    ++ran.times;
    ran.bytes += c.bytes;
  }
  for (const auto& [call, traffic] : calls) {
    ++outcome.compared;
    if (const std::string misfit = traffic_misfit(call, traffic.first, traffic.second); !misfit.empty())
      report(outcome, {rank.rank, std::get<2>(call), misfit});
  }
}

std::string mismatch_words(const CollectiveMismatch& m) {
  if (m.got.kind.empty()) return fmt::format("rank {} took no part in {}, in which rank {} waits for it forever", m.rank, words(m.want), m.other_rank);
  return fmt::format("rank {} entered {}, rank {} had entered {}: each would wait for the other forever", m.rank, words(m.got), m.other_rank,
                     words(m.want));
}

CheckOutcome run(const CheckInput& input) {
  CheckOutcome outcome;
  const auto is_shown_by = [](const trace::RankTrace& rank) { return !rank.comm.empty() || !rank.declared_comm.empty(); };
  const bool is_shown = std::ranges::any_of(input.observed.ranks, is_shown_by);
  if (!is_shown && !input.mismatch) {
    outcome.note = "no rank shows a collective";
    return outcome;
  }
  const bool was_cut = was_cut_short(input) || input.mismatch.has_value();
  if (const auto& m = input.mismatch) {
    ++outcome.compared;
    report(outcome, {m->rank, m->got.site, mismatch_words(*m)});
  }
  for (const GroupCalls& group : groups_of(input)) look_at_group(group, was_cut, outcome);
  for (const trace::RankTrace& rank : input.observed.ranks)
    if (!was_cut) look_at_declared(input.one.problem.mesh, rank, outcome);
  if (outcome.compared == 0) {
    outcome.state = record::CheckState::kUnobserved;
    outcome.note = was_cut ? "the run was cut short before a collective" : "every rank is alone in its groups";
    return outcome;
  }
  conclude(outcome, "");
  return outcome;
}

MOECHECK_REGISTER_CHECK({kName,
                         {"the ranks of every group sent the same collectives in the same order, with the same kind, operation, dtype and "
                          "call site and with sizes that fit; each rank sent what the implementation declares, and nothing else",
                          "that the right numbers were sent; anything about a rank that declares nothing beside what it sent",
                          "collectives, as they ran and as declared", "a rank shows one, or two ranks would have waited forever"},
                         run});

}  // namespace
}  // namespace moecheck::check
