#include "harness/launch/launcher.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "harness/base/files.h"

namespace moecheck::launch {
namespace {

using base::Json;
using Clock = std::chrono::steady_clock;

// "rank 1 waits in all_reduce over ep (sequence 3, at output/y_TD)"
std::string waiting_text(std::size_t rank, const RankOutcome& outcome) {
  if (!outcome.waits_in) return fmt::format("rank {} waits outside of a collective", rank);
  const auto& event = *outcome.waits_in;
  return fmt::format("rank {} waits in {} over {} (sequence {}, at {})", rank, event.collective, event.group, event.sequence, event.site);
}

std::string all_waiting(const CallResult& result) {
  std::vector<std::string> texts;
  for (std::size_t r = 0; r < result.ranks.size(); ++r) {
    const RankOutcome& outcome = result.ranks[r];
    if (!outcome.reply && !outcome.exit && !outcome.has_left && outcome.protocol_error.empty()) texts.push_back(waiting_text(r, outcome));
  }
  return fmt::format("{}", fmt::join(texts, "; "));
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
    std::vector<std::string> operations = {"open"};
    operations.insert(operations.end(), one.phases.begin(), one.phases.end());
    operations.emplace_back("close");
    for (const std::string& operation : operations) {
      Json request = operation == "open" ? open : Json::object();
      request["op"] = operation;
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
  static bool is_refused_by_all(const std::string& operation, const CallResult& result) {
    return operation == "open" && std::ranges::all_of(result.ranks, [](const RankOutcome& rank) {
             return rank.reply && !rank.reply->is_ok && rank.reply->code == "unsupported";
           });
  }

  // Nothing if all went well; otherwise what happened, the root cause first: a rank that ended, then one that raised.
  std::optional<CaseRun> explain(const RankPool& pool, const std::string& operation, const CallResult& result,
                                 std::chrono::milliseconds limit) const {
    if (result.end == CallEnd::kInterrupted) return CaseRun{RunEnd::kInterrupted, "interrupted", {}, 0};
    if (auto ended = explain_end(pool, operation, result)) return ended;
    if (auto refused = explain_replies(operation, result)) return refused;
    if (result.end == CallEnd::kTimedOut)
      return CaseRun{RunEnd::kTimedOut, fmt::format("no reply to {} within {:.1f} s: {}", operation, static_cast<double>(limit.count()) / 1000, all_waiting(result)), {}, 0};
    return std::nullopt;
  }

  static std::optional<CaseRun> explain_end(const RankPool& pool, const std::string& operation, const CallResult& result) {
    // The first failure is the cause: the others may have ended because they lost a peer.
    if (auto first = explain_end_of(pool, operation, result, result.first_failed)) return first;
    for (std::size_t r = 0; r < result.ranks.size(); ++r)
      if (auto ended = explain_end_of(pool, operation, result, r)) return ended;
    return std::nullopt;
  }

  static std::optional<CaseRun> explain_end_of(const RankPool& pool, const std::string& operation, const CallResult& result, std::size_t r) {
    const RankOutcome& rank = result.ranks[r];
    if (!rank.protocol_error.empty())
      return CaseRun{RunEnd::kBroken, fmt::format("rank {} broke the protocol in {}: {}", r, operation, rank.protocol_error), {}, 0};
    if (!rank.exit && !rank.has_left) return std::nullopt;
    const std::string how = rank.exit ? "ended in " + operation + " with " + rank.exit->text() : "closed its socket in " + operation + " without a reply";
    const std::string where = rank.waits_in ? "; " + waiting_text(r, rank) : "";
    const std::string output = pool.last_output(static_cast<model::Dim>(r));
    return CaseRun{RunEnd::kCrashed, fmt::format("rank {} {}{}{}{}", r, how, where, output.empty() ? "" : "; its output ends: ", output), {}, 0};
  }

  static std::optional<CaseRun> explain_replies(const std::string& operation, const CallResult& result) {
    CaseRun run{RunEnd::kCompleted, "", {}, 0};
    for (std::size_t r = 0; r < result.ranks.size(); ++r) {
      const auto& reply = result.ranks[r].reply;
      if (!reply || reply->is_ok) continue;
      const std::string text = fmt::format("rank {} in {}: {}", r, operation, reply->message);
      if (reply->code == "unsupported") return CaseRun{RunEnd::kUnsupported, text, {}, 0};
      if (reply->code == "io" || reply->code == "oom") return CaseRun{RunEnd::kBroken, text, {}, 0};
      if (run.raised.empty()) run.reason = text;
      run.end = RunEnd::kRaised;
      run.raised.push_back({static_cast<model::Dim>(r), operation, reply->message, reply->traceback});
    }
    if (run.end == RunEnd::kCompleted) return std::nullopt;
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
