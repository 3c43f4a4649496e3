#include "harness/launch/launcher.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "harness/base/files.h"

namespace moecheck::launch {
namespace {

using base::Json;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kDescribeLimit{60'000};

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
    if (!outcome.reply && !outcome.exit && outcome.protocol_error.empty()) texts.push_back(waiting_text(r, outcome));
  }
  return fmt::format("{}", fmt::join(texts, "; "));
}

class ProcessLauncher final : public Launcher {
 public:
  explicit ProcessLauncher(LauncherOptions options) : options_(std::move(options)) {}

  base::Result<subject::Capabilities> describe() override {
    ChildCommand command{options_.command, {}, {}};
    command.arguments.emplace_back("--moecheck-describe");
    auto text = run_and_read(command, options_.scratch / "describe", kDescribeLimit);
    if (!text) return text.error();
    auto json = base::parse_json(*text, options_.command[0] + " --moecheck-describe");
    if (!json) return json.error();
    return subject::capabilities_from_json(*json);
  }

  CaseRun run(const cases::Case& one, const CaseFolders& folders, std::chrono::milliseconds limit) override {
    const auto start = Clock::now();
    CaseRun run = run_on_pool(one, folders, limit);
    run.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    const bool is_tainted = run.end != RunEnd::kCompleted && run.end != RunEnd::kUnsupported;
    if (is_tainted || !one.fault.empty() || options_.is_fresh_per_case) pools_.erase(one.world_size());
    return run;
  }

 private:
  base::Result<RankPool*> pool_for(model::Dim world_size) {
    if (auto found = pools_.find(world_size); found != pools_.end()) return found->second.get();
    RankPool::Options options{options_.command, world_size, options_.scratch / fmt::format("p{}", next_pool_++)};
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
      if (auto end = explain(**pool, operation, result, limit)) return *end;
    }
    return {RunEnd::kCompleted, "", {}, 0};
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
    for (std::size_t r = 0; r < result.ranks.size(); ++r) {
      const RankOutcome& rank = result.ranks[r];
      if (rank.exit) {
        const std::string output = pool.last_output(static_cast<model::Dim>(r));
        const std::string where = rank.waits_in ? "; " + waiting_text(r, rank) : "";
        return CaseRun{RunEnd::kCrashed, fmt::format("rank {} ended in {} with {}{}{}{}", r, operation, rank.exit->text(), where,
                                                     output.empty() ? "" : "; its output ends: ", output), {}, 0};
      }
      if (!rank.protocol_error.empty())
        return CaseRun{RunEnd::kCrashed, fmt::format("rank {} broke the protocol in {}: {}", r, operation, rank.protocol_error), {}, 0};
    }
    return std::nullopt;
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
};

}  // namespace

std::unique_ptr<Launcher> make_process_launcher(LauncherOptions options) { return std::make_unique<ProcessLauncher>(std::move(options)); }

}  // namespace moecheck::launch
