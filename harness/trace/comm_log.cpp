#include "harness/trace/comm_log.h"

namespace moecheck::trace {

using base::Json;

bool has_one_count(std::string_view kind) { return kind == "all_reduce" || kind == "broadcast" || kind == "reduce_scatter"; }

Json to_json(const Collective& c) {
  Json json = {{"kind", c.kind}, {"group", c.group}, {"sequence", c.sequence}, {"dtype", c.dtype}, {"count", c.count}, {"bytes", c.bytes}, {"site", c.site}};
  if (!c.reduce_op.empty()) json["reduce_op"] = c.reduce_op;
  if (!c.send_splits.empty()) json["send_splits"] = c.send_splits;
  if (!c.recv_splits.empty()) json["recv_splits"] = c.recv_splits;
  return json;
}

Json to_json(const DeclaredCollective& d) {
  return {{"kind", d.kind}, {"group", d.group}, {"site", d.site}, {"times", d.times}, {"bytes", d.bytes}};
}

Collective collective_from_json(const Json& json) {
  Collective c;
  c.kind = json.value("kind", json.value("collective", ""));
  c.group = json.value("group", "");
  c.sequence = json.value("sequence", std::int64_t{0});
  c.reduce_op = json.value("reduce_op", "");
  c.dtype = json.value("dtype", "");
  c.count = json.value("count", std::int64_t{0});
  c.bytes = json.value("bytes", std::int64_t{0});
  c.send_splits = json.value("send_splits", std::vector<std::int64_t>{});
  c.recv_splits = json.value("recv_splits", std::vector<std::int64_t>{});
  c.site = json.value("site", "");
  return c;
}

DeclaredCollective declared_from_json(const Json& json) {
  return {json.value("kind", ""), json.value("group", ""), json.value("site", ""), json.value("times", std::int64_t{1}),
          json.value("bytes", std::int64_t{-1})};
}

}  // namespace moecheck::trace
