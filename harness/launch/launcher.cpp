#include "harness/launch/launcher.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "harness/base/files.h"

namespace moecheck::launch {
namespace {

using base::Json;
using Clock = std::chrono::steady_clock;

// "all_reduce over ep (sequence 3, at output/y_TD)"
std::string collective_text(const trace::Collective& c) { return fmt::format("{} over {} (sequence {}, at {})", c.kind, c.group, c.sequence, c.site); }

// "rank 1 waits in all_reduce over ep (sequence 3, at output/y_TD)"
std::string waiting_text(std::size_t rank, const RankOutcome& outcome) {
  if (!outcome.waits_in) return fmt::format("rank {} waits outside of a collective", rank);
  return fmt::format("rank {} waits in {}", rank, collective_text(outcome.waits_in->collective));
}

// "all_reduce sum of 336 fp32 over ep (sequence 3, at output/y_TD)"
std::string full_text(const trace::Collective& c) {
  std::string text = c.kind;
  if (!c.reduce_op.empty()) text += " " + c.reduce_op;
  text += fmt::format(" of {} {} over {} (sequence {}, at {}", c.count, c.dtype, c.group, c.sequence, c.site);
  if (!c.send_splits.empty()) text += fmt::format(", sends {} receives {}", fmt::join(c.send_splits, ","), fmt::join(c.recv_splits, ","));
  return text + ")";
}

std::string all_waiting(const CallResult& result) {
  std::vector<std::string> texts;
  for (std::size_t r = 0; r < result.ranks.size(); ++r) {
    const RankOutcome& outcome = result.ranks[r];
    if (!outcome.reply && !outcome.exit && !outcome.has_left && outcome.protocol_error.empty()) texts.push_back(waiting_text(r, outcome));
  }
  return fmt::format("{}", fmt::join(texts, "; "));
}

// One request to all ranks.
struct Operation {
  std::string name;          // "open", "load", "forward", ...
  model::Dim batch = 0;
  bool is_of_batch = false;
  std::string text;          // "forward", or "forward of batch 2 (step 2)" where a case has several
};

Operation batch_operation(const cases::Case& one, const std::string& phase, model::Dim batch) {
  std::string text = phase;
  if (one.num_batches() > 1) text += fmt::format(" of batch {} (step {})", batch + 1, one.step_of(batch) + 1);
  return {phase, batch, true, std::move(text)};
}

std::vector<Operation> operations_of(const cases::Case& one) {
  std::vector<Operation> operations = {{"open", 0, false, "open"}};
  if (one.has_phase("load")) operations.push_back({"load", 0, false, "load"});
  for (model::Dim batch = 0; batch < one.num_batches(); ++batch) {
    for (const char* phase : {"forward", "backward"})
      if (one.has_phase(phase)) operations.push_back(batch_operation(one, phase, batch));
    if (one.ends_step(batch)) operations.push_back(batch_operation(one, "step", batch));
  }
  operations.push_back({"close", 0, false, "close"});
  return operations;
}

class ProcessLauncher final : public Launcher {
 public:
  explicit ProcessLauncher(LauncherOptions options) : options_(std::move(options)) {}

  base::Result<subject::Capabilities> describe() override {
    ChildCommand command{options_.command, {}, {}};
    command.arguments.emplace_back("--moecheck-describe");
    if (auto made = base::make_folders(options_.scratch); !made) return made.error();
    auto text = run_and_read(command, options_.scratch / "describe", options_.start_limit);
    if (!text) return text.error();
    auto json = base::parse_json(*text, options_.command[0] + " --moecheck-describe");
    if (!json) return json.error();
    return subject::capabilities_from_json(*json);
  }

  CaseRun run(const cases::Case& one, const CaseFolders& folders, std::chrono::milliseconds limit) override {
    const auto start = Clock::now();
    is_pool_good_ = false;
    CaseRun run = run_on_pool(one, folders, limit);
    run.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    if (!is_pool_good_ || !one.fault.empty() || options_.is_fresh_per_case) pools_.erase(one.world_size());
    return run;
  }

 private:
  base::Result<RankPool*> pool_for(model::Dim world_size) {
    if (auto found = pools_.find(world_size); found != pools_.end()) return found->second.get();
    const RankPool::Options options{options_.command, world_size, options_.scratch / fmt::format("p{}", next_pool_++), options_.start_limit};
    auto pool = RankPool::start(options);
    if (!pool) return pool.error();
    return pools_.emplace(world_size, *std::move(pool)).first->second.get();
  }

  CaseRun run_on_pool(const cases::Case& one, const CaseFolders& folders, std::chrono::milliseconds limit) {
    auto pool = pool_for(one.world_size());
    if (!pool) return {pool.error().code == base::ErrorCode::kInterrupted ? RunEnd::kInterrupted : RunEnd::kBroken, pool.error().text(), {}, 0};
    const auto deadline = Clock::now() + limit;
    const Json open = subject::to_json(subject::OpenRequest{one, (*pool)->rendezvous(), folders.checkpoint, folders.trace});
    (*pool)->begin_case(one.problem.mesh);
    for (const Operation& operation : operations_of(one)) {
      Json request = operation.name == "open" ? open : Json::object();
      request["op"] = operation.name;
      if (operation.is_of_batch) request["batch"] = operation.batch;
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
      const CallResult result = (*pool)->call(std::vector<Json>(static_cast<std::size_t>(one.world_size()), request), left);
      if (auto end = explain(**pool, operation, result, limit)) {
        is_pool_good_ = is_refused_by_all(operation, result);
        return *end;
      }
    }
    is_pool_good_ = true;
    return {RunEnd::kCompleted, "", {}, 0};
  }

  // A pool whose ranks all refused the case is as good as before; one that disagrees, or still owes a reply, is not.
  static bool is_refused_by_all(const Operation& operation, const CallResult& result) {
    return operation.name == "open" && std::ranges::all_of(result.ranks, [](const RankOutcome& rank) {
             return rank.reply && !rank.reply->is_ok && rank.reply->code == "unsupported";
           });
  }

  // Nothing if all went well; otherwise what happened, the root cause first: a rank that ended, then one that raised.
  std::optional<CaseRun> explain(const RankPool& pool, const Operation& operation, const CallResult& result,
                                 std::chrono::milliseconds limit) const {
    if (result.end == CallEnd::kInterrupted) return CaseRun{RunEnd::kInterrupted, "interrupted", {}, 0};
    if (result.mismatch) return explain_divergence(operation, result);
    if (auto ended = explain_end(pool, operation, result)) return ended;
    if (auto refused = explain_replies(operation, result)) return refused;
    if (result.end == CallEnd::kTimedOut)
      return CaseRun{RunEnd::kTimedOut, fmt::format("no reply to {} within {:.1f} s: {}", operation.text, static_cast<double>(limit.count()) / 1000, all_waiting(result)), {}, 0};
    return std::nullopt;
  }

  // What the ranks made of it is an echo, but tells how far they came.
  static CaseRun explain_divergence(const Operation& operation, const CallResult& result) {
    const CollectiveMismatch& m = *result.mismatch;
    CaseRun run{RunEnd::kDiverged, "", {}, 0, m};
    run.reason = m.got.kind.empty()
                     ? fmt::format("in {} rank {} took no part in {}, in which rank {} waits for it", operation.text, m.rank, full_text(m.want), m.other_rank)
                     : fmt::format("in {} rank {} entered {}, rank {} had entered {}", operation.text, m.rank, full_text(m.got), m.other_rank, full_text(m.want));
    if (const std::string waiting = all_waiting(result); !waiting.empty()) run.reason += "; " + waiting;
    run.raised = raised_by(operation, result);
    return run;
  }

  static std::vector<RaisedPhase> raised_by(const Operation& operation, const CallResult& result) {
    std::vector<RaisedPhase> raised;
    for (std::size_t r = 0; r < result.ranks.size(); ++r) {
      const auto& reply = result.ranks[r].reply;
      if (!reply || reply->is_ok || reply->code != "error") continue;
      raised.push_back({static_cast<model::Dim>(r), operation.name, reply->message, reply->traceback, operation.batch});
    }
    return raised;
  }

  static std::optional<CaseRun> explain_end(const RankPool& pool, const Operation& operation, const CallResult& result) {
    // The first failure is the cause: the others may have ended because they lost a peer.
    if (auto first = explain_end_of(pool, operation, result, result.first_failed)) return first;
    for (std::size_t r = 0; r < result.ranks.size(); ++r)
      if (auto ended = explain_end_of(pool, operation, result, r)) return ended;
    return std::nullopt;
  }

  static std::optional<CaseRun> explain_end_of(const RankPool& pool, const Operation& operation, const CallResult& result, std::size_t r) {
    const RankOutcome& rank = result.ranks[r];
    if (!rank.protocol_error.empty())
      return CaseRun{RunEnd::kBroken, fmt::format("rank {} broke the protocol in {}: {}", r, operation.text, rank.protocol_error), {}, 0};
    if (!rank.exit && !rank.has_left) return std::nullopt;
    const std::string how = rank.exit ? "ended in " + operation.text + " with " + rank.exit->text() : "closed its socket in " + operation.text + " without a reply";
    const std::string where = rank.waits_in ? "; " + waiting_text(r, rank) : "";
    const std::string output = pool.last_output(static_cast<model::Dim>(r));
    return CaseRun{RunEnd::kCrashed, fmt::format("rank {} {}{}{}{}", r, how, where, output.empty() ? "" : "; its output ends: ", output), {}, 0};
  }

  static std::optional<CaseRun> explain_replies(const Operation& operation, const CallResult& result) {
    for (std::size_t r = 0; r < result.ranks.size(); ++r) {
      const auto& reply = result.ranks[r].reply;
      if (!reply || reply->is_ok || reply->code == "error") continue;
      const bool is_refusal = reply->code == "unsupported";
      return CaseRun{is_refusal ? RunEnd::kUnsupported : RunEnd::kBroken, fmt::format("rank {} in {}: {}", r, operation.text, reply->message), {}, 0};
    }
    CaseRun run{RunEnd::kRaised, "", raised_by(operation, result), 0};
    if (run.raised.empty()) return std::nullopt;
    run.reason = fmt::format("rank {} in {}: {}", run.raised[0].rank, operation.text, run.raised[0].message);
    if (const std::string waiting = all_waiting(result); !waiting.empty()) run.reason += "; " + waiting;
    return run;
  }

  LauncherOptions options_;
  std::map<model::Dim, std::unique_ptr<RankPool>> pools_;
  int next_pool_ = 0;
  bool is_pool_good_ = false;   // after the last case
};

}  // namespace

std::unique_ptr<Launcher> make_process_launcher(LauncherOptions options) { return std::make_unique<ProcessLauncher>(std::move(options)); }

}  // namespace moecheck::launch
