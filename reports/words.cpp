#include "reports/words.h"

#include <algorithm>
#include <cctype>
#include <cmath>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace moecheck::reports {

using record::CaseRecord;
using record::Finding;
using record::RunRecord;
using record::Verdict;

namespace {

// want and got are compared by eye: six digits separate neighbours of bf16 and f16, and most of fp32.
constexpr int kValueDigits = 6;
constexpr int kMagnitudeDigits = 3;
constexpr double kSmallestPlain = 1e-2;
constexpr double kLargestPlain = 1e6;

// "1.250e-03" -> "1.25e-3"
std::string without_padding(std::string text) {
  const auto e = text.find('e');
  std::string mantissa = text.substr(0, e);
  if (mantissa.find('.') != std::string::npos) {
    mantissa.erase(mantissa.find_last_not_of('0') + 1);
    if (mantissa.ends_with('.')) mantissa.pop_back();
  }
  return e == std::string::npos ? mantissa : fmt::format("{}e{}", mantissa, std::stoi(text.substr(e + 1)));
}

// A vacuous case has no finding to show: the check that compared nothing is the news.
std::string vacuous_text(const CaseRecord& one) {
  for (const record::CheckResult& check : one.checks)
    if (check.state == record::CheckState::kVacuous)
      return fmt::format("{} compared nothing{}{}", check.name, check.note.empty() ? "" : ": ", check.note);
  return "";
}

std::string first_line(const std::string& text) { return text.substr(0, text.find_first_of("\r\n")); }

int reading_rank(Verdict verdict) {
  if (record::is_failure(verdict)) return 0;
  switch (verdict) {
    case Verdict::kError: return 1;
    case Verdict::kInconclusive: return 2;
    case Verdict::kXfail: return 3;
    case Verdict::kUnsupported:
    case Verdict::kSkipped: return 4;
    default: return 5;
  }
}

}  // namespace

std::string verdict_tag(Verdict verdict) {
  std::string tag(record::verdict_name(verdict));
  for (char& c : tag) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return tag;
}

std::string number_text(double value, int num_digits) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  if (value == 0) return "0";
  const double size = std::abs(value);
  if (size < kSmallestPlain || size >= kLargestPlain) return without_padding(fmt::format("{:.{}e}", value, num_digits - 1));
  const int num_before_point = static_cast<int>(std::floor(std::log10(size))) + 1;
  return without_padding(fmt::format("{:.{}f}", value, std::max(0, num_digits - num_before_point)));
}

std::string value_text(double value) { return number_text(value, kValueDigits); }
std::string magnitude_text(double value) { return number_text(value, kMagnitudeDigits); }

std::string used_text(double used) {
  const std::string text = number_text(used, kMagnitudeDigits);
  if (!std::isfinite(used)) return text;
  if (text == "1" && used != 1) return used > 1 ? ">1x" : "<1x";
  return text + "x";
}

std::string seconds_text(double seconds) {
  constexpr double kMinute = 60;
  if (!(seconds >= kMinute)) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<std::int64_t>(std::llround(seconds));
  return fmt::format("{} min {:02} s", whole / 60, whole % 60);
}

// The same test as tolerance::within, which this level may not include.
bool is_over_bound(double used) { return !(used <= 1); }

std::string place_text(const Finding& f) {
  std::vector<std::string> parts;
  if (f.token) parts.push_back(fmt::format("token {}", *f.token));
  if (f.slot) parts.push_back(fmt::format("slot {}", *f.slot));
  if (f.expert) parts.push_back(fmt::format("expert {}", *f.expert));
  if (f.rank) parts.push_back(fmt::format("rank {}", *f.rank));
  if (f.step) parts.push_back(fmt::format("step {}", *f.step));
  if (!f.life.empty()) parts.push_back(f.life);
  return fmt::format("{}", fmt::join(parts, ", "));
}

std::string numbers_text(const Finding& f) {
  std::vector<std::string> parts;
  if (f.want) parts.push_back("want " + value_text(*f.want));
  if (f.got) parts.push_back("got " + value_text(*f.got));
  // A count of what is wrong stands in the message; only an error of numbers is measured against a bound.
  const bool is_count = !f.used && f.bound == 0.0;
  // Where want and got say it all, the error would only repeat them.
  if (f.measured && !is_count && !(f.want && f.got)) parts.push_back("error " + magnitude_text(*f.measured));
  if (f.bound && !is_count) parts.push_back("bound " + magnitude_text(*f.bound));
  if (f.used) parts.push_back("used " + used_text(*f.used));
  return fmt::format("{}", fmt::join(parts, "  "));
}

std::string gist(const CaseRecord& one) {
  if (one.findings.empty() && one.reason.empty()) return vacuous_text(one);
  // A crash or a timeout is told by its reason; findings of such a case are what was seen before it.
  if (one.findings.empty() || (!one.reason.empty() && one.verdict != Verdict::kFail)) return first_line(one.reason);
  const Finding& first = one.findings.front();
  const std::string place = place_text(first);
  return fmt::format("{}{}{}: {}{}", first.check, first.stage.empty() ? "" : " ", first.stage, first.message,
                     place.empty() ? "" : fmt::format(" ({})", place));
}

bool needs_attention(Verdict verdict) {
  return record::is_failure(verdict) || verdict == Verdict::kError || verdict == Verdict::kInconclusive;
}

std::vector<const CaseRecord*> in_reading_order(const RunRecord& run) {
  std::vector<const CaseRecord*> cases;
  for (const CaseRecord& one : run.cases) cases.push_back(&one);
  std::ranges::stable_sort(cases, {}, [](const CaseRecord* one) { return reading_rank(one->verdict); });
  return cases;
}

std::string headline(const RunRecord& run) {
  const auto total = static_cast<std::int64_t>(run.cases.size());
  const auto num_failing = std::ranges::count_if(run.cases, [](const CaseRecord& one) { return is_failure(one.verdict); });
  const auto num_pass = run.count(Verdict::kPass);
  const auto share = [&](std::int64_t count, std::string_view singular, std::string_view plural) {
    return fmt::format("{} of {} {} {}", count, total, total == 1 ? "case" : "cases", count == 1 ? singular : plural);
  };
  std::string text;
  if (total == 0)
    text = "no case was selected";
  else if (num_failing > 0)
    text = share(num_failing, "fails", "fail");
  else if (run.count(Verdict::kError) > 0)
    text = share(run.count(Verdict::kError), "could not be tested", "could not be tested");
  else if (run.count(Verdict::kInconclusive) > 0)
    text = share(run.count(Verdict::kInconclusive), "is inconclusive", "are inconclusive");
  else if (num_pass + run.count(Verdict::kXfail) == 0)
    text = "nothing was tested";
  else
    text = "no case fails; " + share(num_pass, "passes", "pass");
  return run.interrupted ? text + " (interrupted)" : text;
}

std::vector<std::pair<std::string, std::int64_t>> unobserved_checks(const RunRecord& run) {
  std::vector<std::pair<std::string, std::int64_t>> counts;
  for (const CaseRecord& one : run.cases)
    for (const record::CheckResult& check : one.checks) {
      if (check.state != record::CheckState::kUnobserved) continue;
      const auto found = std::ranges::find(counts, check.name, &std::pair<std::string, std::int64_t>::first);
      if (found == counts.end())
        counts.emplace_back(check.name, 1);
      else
        ++found->second;
    }
  return counts;
}

}  // namespace moecheck::reports
