// Progress on stderr: one status line redrawn on a terminal, one line a finished case otherwise.
#pragma once

#include <string>

#include "harness/record/run_record.h"

namespace moecheck::cli {

class ProgressPrinter {
 public:
  // is_json: stdout belongs to JSON; failing cases are told on stderr. is_quiet: they are not told at all.
  ProgressPrinter(std::size_t total, bool is_json, bool is_quiet);
  void start(const std::string& id, std::size_t index);
  void end(const record::CaseRecord& one);
  void fail_late(const record::CaseRecord& one, std::size_t index);   // it ended well, until it was compared with others
  void finish();   // clears the status line

 private:
  void clear_line() const;
  void tell(const record::CaseRecord& one, std::size_t number) const;

  std::size_t total_;
  std::size_t num_done_ = 0;
  std::size_t num_failed_ = 0;
  bool is_json_;
  bool is_quiet_;
  bool is_terminal_;
};

bool wants_color(int file_descriptor);   // a terminal, and neither NO_COLOR nor CI

}  // namespace moecheck::cli
