#include "harness/base/json.h"
#include "reports/report.h"

namespace moecheck::reports {
namespace {

std::string render_json(const record::RunRecord& run) {
  // A subject's message may hold bytes that are no UTF-8; they become U+FFFD, since JSON cannot carry them. ASCII only: what is
  // printed on a terminal must not steer it, and the controls U+0080 to U+009F would.
  return record::to_json(run).dump(2, ' ', true, base::Json::error_handler_t::replace) + "\n";
}

constexpr Format kFormat{"json", "report.json", &render_json};
MOECHECK_REGISTER_FORMAT(kFormat);

}  // namespace
}  // namespace moecheck::reports
