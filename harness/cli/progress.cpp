#include "harness/cli/progress.h"

#include <cstdio>
#include <cstdlib>
#include <unistd.h>

#include <fmt/format.h>

#include "reports/report.h"

namespace moecheck::cli {
namespace {

bool is_set(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0';
}

constexpr std::size_t kStatusWidth = 100;

}  // namespace

bool wants_color(int file_descriptor) { return ::isatty(file_descriptor) != 0 && !is_set("NO_COLOR") && !is_set("CI"); }

ProgressPrinter::ProgressPrinter(std::size_t total, bool is_json, bool is_quiet)
    : total_(total), is_json_(is_json), is_quiet_(is_quiet), is_terminal_(::isatty(STDERR_FILENO) != 0 && !is_set("CI")) {}

void ProgressPrinter::clear_line() const {
  if (is_terminal_) fmt::print(stderr, "\r\033[K");
}

void ProgressPrinter::start(const std::string& id, std::size_t index) {
  if (!is_terminal_) return;
  const std::string line = fmt::format("[{}/{}] {} failed  {}", index + 1, total_, num_failed_, id);
  fmt::print(stderr, "\r\033[K{}", line.substr(0, kStatusWidth));
  std::fflush(stderr);
}

void ProgressPrinter::end(const record::CaseRecord& one) {
  ++num_done_;
  if (record::is_failure(one.verdict)) ++num_failed_;
  clear_line();
  if (!is_terminal_) fmt::print(stderr, "[{}/{}] {} {} ({:.2f} s)\n", num_done_, total_, record::verdict_name(one.verdict), one.id, one.seconds);
  tell(one, num_done_);
}

void ProgressPrinter::fail_late(const record::CaseRecord& one, std::size_t index) {
  clear_line();
  if (!is_terminal_) fmt::print(stderr, "afterwards {} {}\n", record::verdict_name(one.verdict), one.id);
  tell(one, index + 1);
}

void ProgressPrinter::tell(const record::CaseRecord& one, std::size_t number) const {
  if (is_quiet_) return;
  std::FILE* out = is_json_ ? stderr : stdout;
  const std::string text = reports::console_case(one, number, total_, wants_color(is_json_ ? STDERR_FILENO : STDOUT_FILENO));
  if (!text.empty()) fmt::print(out, "{}{}", text, text.ends_with('\n') ? "" : "\n");
  std::fflush(out);
}

void ProgressPrinter::finish() {
  clear_line();
  std::fflush(stderr);
}

}  // namespace moecheck::cli
