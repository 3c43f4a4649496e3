#include "harness/checkpoint/expert_names.h"

#include <algorithm>
#include <charconv>

#include <fmt/format.h>

#include "harness/base/require.h"

namespace moecheck::checkpoint {
namespace {

constexpr std::size_t kPackedDims = 3;   // expert, rows, columns
constexpr std::string_view kSegmentEnds = "./";

std::optional<std::int64_t> number_of(std::string_view text) {
  std::int64_t number = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (text.empty() || code != std::errc{} || end != text.data() + text.size() || number < 0) return std::nullopt;
  return number;
}

// "experts" and "local_experts", and not "shared_experts", which are no choice of the router.
bool names_experts(std::string_view segment) { return segment.ends_with("experts") && segment.find("shared") == std::string_view::npos; }

}  // namespace

std::optional<ExpertName> expert_name(std::string_view name, const base::Shape& shape) {
  for (std::size_t begin = 0; begin < name.size();) {
    const std::size_t end = std::min(name.find_first_of(kSegmentEnds, begin), name.size());
    const std::size_t next = std::min(end + 1, name.size());
    if (!names_experts(name.substr(begin, end - begin))) {
      begin = next;
      continue;
    }
    const std::size_t number_end = std::min(name.find_first_of(kSegmentEnds, next), name.size());
    if (const auto expert = number_of(name.substr(next, number_end - next)))
      return ExpertName{std::string(name.substr(0, end)), expert, std::string(name.substr(std::min(number_end + 1, name.size())))};
    if (shape.size() == kPackedDims) return ExpertName{std::string(name.substr(0, end)), std::nullopt, std::string(name.substr(next))};
    begin = next;
  }
  return std::nullopt;
}

std::string folded_name(std::string_view full_name, const ExpertName& name, std::string_view numbers) {
  MOECHECK_REQUIRE(name.expert, std::string(full_name));
  const std::size_t number_at = name.group.size() + 1;
  const std::size_t number_end = std::min(full_name.find_first_of(kSegmentEnds, number_at), full_name.size());
  return fmt::format("{}{{{}}}{}", full_name.substr(0, number_at), numbers, full_name.substr(number_end));
}

std::string ranges_text(const std::set<std::int64_t>& numbers) {
  std::string text;
  for (auto first = numbers.begin(); first != numbers.end();) {
    auto last = first;
    for (auto next = std::next(last); next != numbers.end() && *next == *last + 1; ++next) last = next;
    text += text.empty() ? "" : ", ";
    text += first == last ? fmt::format("{}", *first) : fmt::format("{}..{}", *first, *last);
    first = std::next(last);
  }
  return text.empty() ? "none" : text;
}

}  // namespace moecheck::checkpoint
