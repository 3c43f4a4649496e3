#include "harness/checkpoint/expert_moves.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include <fmt/format.h>

#include "harness/checkpoint/checksum.h"
#include "harness/checkpoint/expert_names.h"

namespace moecheck::checkpoint {
namespace {

// Independent weights are about 1.4 of their own length apart, a cast or a few steps much less than a quarter. Recognition
// only names what differs; it never makes anything equal.
constexpr double kAlike = 0.25;
constexpr double kClearlyFarther = 2;    // how much farther every other expert has to be
constexpr std::int64_t kSamples = 256;   // of a tensor, evenly spaced

struct Source {
  std::int64_t expert = 0;
  bool is_exact = true;
};

std::string content_of(const base::HostTensor& tensor) {
  return fmt::format("{} {} {}", base::safetensors_name(tensor.dtype()), base::shape_text(tensor.shape()), checksum(tensor.bytes()));
}

double relative_distance(const base::HostTensor& a, const base::HostTensor& b) {
  const std::int64_t step = std::max<std::int64_t>(1, a.numel() / kSamples);
  double error_squares = 0;
  double squares = 0;
  for (std::int64_t i = 0; i < a.numel(); i += step) {
    const double error = a.at(i) - b.at(i);
    error_squares += error * error;
    squares += a.at(i) * a.at(i);
  }
  return squares > 0 ? std::sqrt(error_squares / squares) : HUGE_VAL;
}

std::optional<std::int64_t> nearest(const TensorsOfExperts& a, const base::HostTensor& tensor) {
  std::optional<std::int64_t> best;
  double smallest = HUGE_VAL;
  double second = HUGE_VAL;
  for (const auto& [expert, candidate] : a) {
    if (candidate.shape() != tensor.shape()) continue;
    const double distance = relative_distance(candidate, tensor);
    if (distance < smallest) {
      second = smallest;
      smallest = distance;
      best = expert;
    } else {
      second = std::min(second, distance);
    }
  }
  return smallest <= kAlike && second >= kClearlyFarther * smallest ? best : std::nullopt;
}

// The expert of A that each expert of B is.
std::map<std::int64_t, Source> sources_of(const TensorsOfExperts& a, const TensorsOfExperts& b) {
  std::map<std::string, std::vector<std::int64_t>> by_content;
  std::map<std::int64_t, std::string> contents_b;
  for (const auto& [expert, tensor] : a) by_content[content_of(tensor)].push_back(expert);
  for (const auto& [expert, tensor] : b) contents_b[expert] = content_of(tensor);
  std::map<std::int64_t, Source> sources;
  std::set<std::int64_t> used;
  const auto take = [&](std::int64_t expert, Source source) {
    sources[expert] = source;
    used.insert(source.expert);
  };
  for (const auto& [expert, content] : contents_b) {
    const auto same = by_content.find(content);
    if (same != by_content.end() && std::ranges::binary_search(same->second, expert)) take(expert, {expert, true});
  }
  for (const auto& [expert, tensor] : b) {
    if (sources.contains(expert)) continue;
    if (const auto same = by_content.find(contents_b[expert]); same != by_content.end()) {
      const auto fresh = std::ranges::find_if(same->second, [&](std::int64_t one) { return !used.contains(one); });
      take(expert, {fresh != same->second.end() ? *fresh : same->second.front(), true});
    } else if (const auto alike = nearest(a, tensor)) {
      take(expert, {*alike, false});
    }
  }
  return sources;
}

std::vector<ExpertMove> moves_of(const std::map<std::int64_t, Source>& sources) {
  std::map<std::int64_t, std::int64_t> num_places;
  for (const auto& [expert, source] : sources) ++num_places[source.expert];
  std::vector<ExpertMove> moves;
  for (const auto& [expert, source] : sources) {
    if (source.expert == expert) continue;
    const ExpertMove one{source.expert, expert, 1, num_places[source.expert] > 1, source.is_exact};
    const bool goes_on = !moves.empty() && moves.back().a + moves.back().count == one.a && moves.back().b + moves.back().count == one.b &&
                         moves.back().is_copy == one.is_copy && moves.back().is_exact == one.is_exact;
    if (goes_on) {
      ++moves.back().count;
    } else {
      moves.push_back(one);
    }
  }
  return moves;
}

// From where A's experts stand to where B's do, moved ones only.
std::map<std::int64_t, std::int64_t> places_of(const ExpertMatch& match) {
  std::map<std::int64_t, std::int64_t> places;
  for (const ExpertMove& move : match.moves)
    for (std::int64_t i = 0; i < move.count; ++i) places[move.a + i] = move.b + i;
  return places;
}

std::string cycles_text(std::map<std::int64_t, std::int64_t> places) {
  std::string text;
  while (!places.empty()) {
    const std::int64_t first = places.begin()->first;
    std::vector<std::int64_t> cycle;
    for (std::int64_t at = first; places.contains(at);) {
      cycle.push_back(at);
      const std::int64_t next = places[at];
      places.erase(at);
      at = next;
    }
    text += text.empty() ? "" : ", ";
    if (cycle.size() == 2) {
      text += fmt::format("{}<->{}", cycle[0], cycle[1]);
    } else {
      for (const std::int64_t expert : cycle) text += fmt::format("{}->", expert);
      text += fmt::format("{}", first);
    }
  }
  return text;
}

std::string experts_text(std::int64_t first, std::int64_t count) {
  return count == 1 ? fmt::format("expert {}", first) : fmt::format("experts {}..{}", first, first + count - 1);
}

std::string set_text(const std::set<std::int64_t>& experts) {
  return fmt::format("{} {}", experts.size() == 1 ? "expert" : "experts", ranges_text(experts));
}

}  // namespace

bool ExpertMatch::has_moved_a(std::int64_t expert) const {
  return std::ranges::any_of(moves, [&](const ExpertMove& move) { return expert >= move.a && expert < move.a + move.count; });
}

bool ExpertMatch::has_moved_b(std::int64_t expert) const {
  return std::ranges::any_of(moves, [&](const ExpertMove& move) { return expert >= move.b && expert < move.b + move.count; });
}

ExpertMatch match_experts(const TensorsOfExperts& a, const TensorsOfExperts& b) {
  const std::map<std::int64_t, Source> sources = sources_of(a, b);
  ExpertMatch match;
  match.moves = moves_of(sources);
  for (const auto& [expert, tensor] : a) match.lost_a.insert(expert);
  for (const auto& [expert, source] : sources) {
    match.lost_a.erase(source.expert);
    if (source.expert == expert && !source.is_exact) match.is_rest_equal = false;
  }
  for (const auto& [expert, tensor] : b)
    if (!sources.contains(expert)) match.unmatched_b.insert(expert);
  if (!match.unmatched_b.empty()) match.is_rest_equal = false;
  std::set<std::int64_t> from;
  std::set<std::int64_t> to;
  for (const ExpertMove& move : match.moves)
    for (std::int64_t i = 0; i < move.count; ++i) {
      from.insert(move.a + i);
      to.insert(move.b + i);
    }
  match.is_permutation = !match.moves.empty() && from == to && std::ranges::none_of(match.moves, &ExpertMove::is_copy);
  return match;
}

std::string match_text(const ExpertMatch& match) {
  std::string text;
  if (match.is_permutation) text = "permuted: " + cycles_text(places_of(match));
  for (const ExpertMove& move : match.moves) {
    if (match.is_permutation) break;
    text += text.empty() ? "" : "; ";
    text += fmt::format("{} of A {} {}{} of B", experts_text(move.a, move.count), move.count == 1 ? "is" : "are", move.is_copy ? "also " : "",
                        experts_text(move.b, move.count));
  }
  if (!std::ranges::all_of(match.moves, &ExpertMove::is_exact)) text += " (alike, not equal)";
  if (match.moves.empty()) return text;
  if (!match.unmatched_b.empty()) text += fmt::format("; none of A's: {} of B", set_text(match.unmatched_b));
  if (!match.lost_a.empty()) text += fmt::format("; nowhere in B: {} of A", set_text(match.lost_a));
  return text;
}

}  // namespace moecheck::checkpoint
