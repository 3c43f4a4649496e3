// The subject contract, protocol v1: what a driver and one rank of a subject say to each other.
//
// `CMD --moecheck-describe` prints Capabilities as one JSON object. Otherwise CMD is started once per rank with RANK,
// LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT as torchrun sets them, and MOECHECK_SOCKET, a UNIX stream socket to
// connect to. JSON objects, one a line:
//   rank -> driver   {"event": "hello", "protocol": 1, "rank": r, "pid": p}         first, unasked
//   driver -> rank   {"id": n, "op": "open", ...OpenRequest}, then {"id": n, "op": "load" | "close"},
//                    {"id": n, "op": "load", "resume": folder}: the newest whole save of its step-<n>, instead of the checkpoint
//                    {"id": n, "op": "forward" | "backward" | "step", "batch": b}: step after the last batch of each step
//                    {"id": n, "op": "save", "folder": path of a step-<n>, "batch": batches before, "hold_at": point}: point is there for
//                    a rank that is to be killed in this save, and stops at that point, having said so
//   rank -> driver   {"id": n, "ok": true, "implementation": s, "experts_backend": s, "steps": n}   steps: of a load, those taken before
//                    {"id": n, "ok": false, "code": "unsupported" | "oom" | "io" | "error", "message": s, "traceback": s}
//   rank -> driver   {"event": "enter" | "leave", "kind": s, "group": s, "sequence": n, "site": s, ...trace::Collective}   at any
//                    time: a timeout names the collective that a rank waits in, and ranks that do not agree are told at once
//   rank -> driver   {"event": "at", "point": "staged" | "torn" | "files" | "index" | "committed"}   in a save, where it is held
// Other ways to be started, for subjects that offer them or are started by somebody else:
//   under a launcher   the environment is the launcher's (harness/subject/rank_place.h says which); MOECHECK_SOCKET is one for all ranks,
//                      a path or "tcp:host:port", and hello says besides "world_size", "machine": what names the machine and its numbering of processes
//                      ("" where unknown), and "token": MOECHECK_TOKEN, if that is set
//   fork_server        CMD is started once with MOECHECK_SERVER, a UNIX socket, where it says {"event": "hello", "protocol": 1} and is told
//                      {"id": n, "op": "fork", "environment": {...}, "output": file}: a process forked twice, so that it becomes the
//                      driver's child, leads a session of its own, writes stdout and stderr to the file, and is a rank with that
//                      environment; the answer is {"id": n, "ok": true, "pid": p}
//   one_shot           no socket: MOECHECK_CASE is a file, {"protocol": 1, "operations": [requests with their ids, open first], "answers": path};
//                      rank r does them in order and appends what it would answer, and its events, to the file <answers><r>, until one is
//                      not ok or all are done, and exits. One that answers nothing and exits with 0 did what it was told
// "io": the rank could not read the checkpoint or write its trace; that is infrastructure and says nothing about the layer.
// A closed socket asks the rank to leave. Stdout and stderr stay free. A phase's tensors are written to
// TRACE/<folder of phase and batch>/rank<r>.safetensors (harness/trace/trace.h) before the reply. An unsupported case is refused, never run as
// something else.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "harness/base/json.h"
#include "harness/base/result.h"
#include "harness/cases/case.h"
#include "harness/trace/comm_log.h"

namespace moecheck::subject {

inline constexpr int kProtocol = 1;
inline constexpr const char* kSocketVariable = "MOECHECK_SOCKET";
inline constexpr const char* kTokenVariable = "MOECHECK_TOKEN";
inline constexpr const char* kServerVariable = "MOECHECK_SERVER";
inline constexpr const char* kCaseVariable = "MOECHECK_CASE";

struct OpenRequest {
  cases::Case one;
  std::filesystem::path rendezvous;  // a folder for stores; ranks that see the same one again may reuse their groups
  std::filesystem::path checkpoint;  // folder with model.safetensors in the family's Hugging Face layout
  std::filesystem::path trace;       // folder to write to
};

struct Reply {
  bool is_ok = false;
  std::string code;       // "unsupported", "oom", "io" or "error" if not ok
  std::string message;
  std::string traceback;
  std::string implementation;   // what really ran
  std::string experts_backend;
  std::optional<model::Dim> steps = {};   // of a load that resumed: the steps that were taken before its save
};

struct CollectiveEvent {
  bool is_enter = false;
  trace::Collective collective;   // leave repeats what enter said
};

base::Json to_json(const OpenRequest& request);
base::Result<OpenRequest> open_request_from_json(const base::Json& json);

base::Json to_json(const Reply& reply);
base::Result<Reply> reply_from_json(const base::Json& json);

base::Json to_json(const CollectiveEvent& event);
base::Result<CollectiveEvent> collective_event_from_json(const base::Json& json);

// An injectable known bug, as the subject describes it.
struct ExpectedCatch {
  std::string check;
  std::string stage;                  // where the finding must stand
  std::optional<std::int64_t> rank;
  std::optional<std::int64_t> expert; // global id, if an expert is involved
};

struct FaultInfo {
  std::string name;
  std::string origin;     // zoo id and upstream thread
  std::string summary;
  std::string replaces;   // the seam
  std::string trigger;    // id of the smallest case that shows it, without the fault
  std::vector<ExpectedCatch> expected;
  // A difference that is no bug: the case must pass with it, and what is expected are findings of noise.
  bool is_control = false;
};

struct ImplementationInfo {
  std::string name;
  std::string summary;
  std::vector<std::string> mesh_dims;
  std::vector<std::string> experts_backends;
};

struct Capabilities {
  int protocol = 0;
  std::string name;
  std::string version;
  std::vector<ImplementationInfo> implementations;
  std::vector<std::string> dtypes;
  std::vector<std::string> devices;   // {"cpu"} if the subject does not say
  std::vector<std::string> phases;
  std::vector<std::string> taps;
  std::vector<std::string> weight_layouts;
  std::vector<FaultInfo> faults;
  bool has_fork_server = false;
  bool is_one_shot = false;           // takes a case whole, and nothing else

  const FaultInfo* find_fault(std::string_view fault) const;
  // Why the case is outside of what is declared; empty if it is inside.
  std::string refusal(const cases::Case& one) const;
};

base::Json to_json(const Capabilities& capabilities);
base::Result<Capabilities> capabilities_from_json(const base::Json& json);

}  // namespace moecheck::subject
