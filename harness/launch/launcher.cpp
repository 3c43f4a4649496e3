#include "harness/launch/launcher.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "harness/base/files.h"
#include "harness/cases/lives.h"
#include "harness/launch/fork_server.h"
#include "harness/trace/trace.h"

namespace moecheck::launch {
namespace {

using base::Json;
using Clock = std::chrono::steady_clock;

// "all_reduce over ep (sequence 3, at output/y_TD)"
std::string collective_text(const trace::Collective& c) {
  return fmt::format("{} over {} (sequence {}, at {})", c.kind, c.group, c.sequence, c.site);
}

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
  Json request;              // what is said beside the name
  std::string text;          // "forward", or "forward of batch 2 (step 2)" where a case has several
  cases::CrashPoint crash = cases::CrashPoint::kNone;   // ranks are killed there
  std::optional<model::Dim> resumed_steps = {};         // what a load has to say
};

Operation batch_operation(const cases::Case& one, const std::string& phase, model::Dim batch) {
  std::string text = phase;
  if (one.num_batches() > 1) text += fmt::format(" of batch {} (step {})", batch + 1, one.step_of(batch) + 1);
  return {phase, batch, {{"batch", batch}}, std::move(text)};
}

// The saves of a life, by the number of batches before.
void add_saves(const cases::Life& life, model::Dim batches, const std::filesystem::path& folder, std::vector<Operation>& operations) {
  for (const cases::PlannedSave& save : life.saves) {
    if (save.after * life.one.training.microbatches != batches) continue;
    const std::string path = (trace::saves_folder(folder) / cases::save_folder(save.after)).string();
    operations.push_back({"save", std::max(batches - 1, life.one.first_batch), {{"folder", path}, {"batch", batches}},
                          fmt::format("save after step {}", save.after), save.crash});
  }
}

// folders: of each life's trace.
std::vector<Operation> operations_of(const std::vector<cases::Life>& lives, const cases::Life& life,
                                     const std::vector<std::filesystem::path>& folders) {
  const std::filesystem::path& folder = folders[static_cast<std::size_t>(&life - lives.data())];
  std::vector<Operation> operations = {{"open", 0, Json::object(), "open"}};
  if (life.one.has_phase("load")) operations.push_back({"load", life.one.first_batch, Json::object(), "load"});
  if (life.from && life.one.has_phase("load")) {
    operations.back().request["resume"] = trace::saves_folder(folders[*life.from]).string();
    if (life.asked.has_phase("step")) operations.back().resumed_steps = cases::steps_before(lives, life);
  }
  add_saves(life, life.one.first_batch, folder, operations);
  for (model::Dim batch = life.one.first_batch; life.takes_batches && batch < life.one.num_batches(); ++batch) {
    for (const char* phase : {"forward", "backward"})
      if (life.one.has_phase(phase)) operations.push_back(batch_operation(life.one, phase, batch));
    if (life.one.ends_step(batch)) operations.push_back(batch_operation(life.one, "step", batch));
    if (life.one.ends_step(batch)) add_saves(life, batch + 1, folder, operations);
  }
  operations.push_back({"close", 0, Json::object(), "close"});
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
    const std::vector<cases::Life> lives = cases::lives_of(one);
    std::vector<std::filesystem::path> traces;
    for (std::size_t i = 0; i < lives.size(); ++i) traces.push_back(trace::life_folder(folders.trace, i));
    CaseRun run{RunEnd::kCompleted, "", {}, 0};
    for (std::size_t i = 0; i < lives.size() && run.end == RunEnd::kCompleted; ++i) {
      is_pool_good_ = false;
      run = run_life(lives, lives[i], {folders.checkpoint, traces}, {start + limit, limit});
      if (lives.size() > 1 && !run.reason.empty()) run.reason = fmt::format("{}: {}", lives[i].name, run.reason);
      for (RaisedPhase& raised : run.raised) raised.life = i;
      run.life = i;
      if (!is_pool_good_ || options_.is_fresh_per_case) pools_.erase(lives[i].one.world_size());
    }
    if (!one.fault.empty()) pools_.clear();   // whoever ran with it
    run.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    return run;
  }

 private:
  // open: of the case, but for the rendezvous; it and the operations go to ranks that take a case whole.
  base::Result<RankPool*> pool_for(const cases::Life& life, const std::vector<Operation>& operations, subject::OpenRequest open) {
    const model::Dim world_size = life.one.world_size();
    if (auto found = pools_.find(world_size); found != pools_.end() && !options_.is_at_once) return found->second.get();
    pools_.erase(world_size);
    StartOptions start{options_.command, world_size, options_.scratch / fmt::format("p{}", next_pool_++), options_.start_limit};
    start.prefix = options_.prefix;
    start.listen = options_.listen;
    start.on_sent = options_.on_sent;
    if (options_.forks_ranks && options_.prefix.empty()) {
      auto server = fork_server();
      if (!server) return server.error();
      start.fork_server = *server;
    }
    if (options_.is_at_once) {
      open.rendezvous = RankPool::rendezvous_in(start.folder);
      start.plan = plan_of(operations, subject::to_json(open));
    }
    auto pool = RankPool::start(start);
    if (!pool) return pool.error();
    return pools_.emplace(world_size, *std::move(pool)).first->second.get();
  }

  base::Result<ForkServer*> fork_server() {
    if (fork_server_ == nullptr || !fork_server_->is_alive()) {
      auto server = ForkServer::start({options_.command, options_.scratch / fmt::format("f{}", next_pool_++), options_.start_limit});
      if (!server) return server.error();
      fork_server_ = *std::move(server);
    }
    return fork_server_.get();
  }

  static std::vector<Json> plan_of(const std::vector<Operation>& operations, const Json& open) {
    std::vector<Json> plan;
    for (const Operation& operation : operations) {
      plan.push_back(operation.name == "open" ? open : operation.request);
      plan.back()["op"] = operation.name;
      plan.back()["id"] = plan.size();
    }
    return plan;
  }

  struct LifeFolders {
    std::filesystem::path checkpoint;
    const std::vector<std::filesystem::path>& traces;   // of all lives
  };
  struct Deadline {
    Clock::time_point at;
    std::chrono::milliseconds limit;   // that was given to the case
  };

  CaseRun run_life(const std::vector<cases::Life>& lives, const cases::Life& life, const LifeFolders& folders, const Deadline& deadline) {
    const std::filesystem::path& trace = folders.traces[static_cast<std::size_t>(&life - lives.data())];
    std::vector<Operation> operations = operations_of(lives, life, folders.traces);
    subject::OpenRequest open{life.asked, {}, folders.checkpoint, trace};
    auto pool = pool_for(life, operations, open);
    if (!pool) return {pool.error().code == base::ErrorCode::kInterrupted ? RunEnd::kInterrupted : RunEnd::kBroken, pool.error().text(), {}, 0};
    open.rendezvous = (*pool)->rendezvous();
    (*pool)->begin_case(life.one.problem.mesh);
    for (Operation& operation : operations) {
      if (operation.crash != cases::CrashPoint::kNone && options_.is_at_once)
        return {RunEnd::kUnsupported,
                "a subject that takes a case whole cannot be stopped at '" + std::string(cases::crash_point_name(operation.crash)) + "'",
                {}, 0};
      if (operation.name == "open") operation.request = subject::to_json(open);
      operation.request["op"] = operation.name;
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline.at - Clock::now());
      const Requests requests = requests_of(life, operation);
      const CallResult result = (*pool)->call(requests.by_rank, left, requests.killing);
      if (operation.crash != cases::CrashPoint::kNone) return after_crash(operation, result, trace);
      if (auto end = explain(**pool, operation, result, deadline.limit)) {
        is_pool_good_ = is_refused_by_all(operation, result);
        return *end;
      }
    }
    is_pool_good_ = true;
    return {RunEnd::kCompleted, "", {}, 0};
  }

  struct Requests {
    std::vector<Json> by_rank;
    std::optional<Killing> killing;
  };

  static Requests requests_of(const cases::Life& life, const Operation& operation) {
    Requests requests{std::vector<Json>(static_cast<std::size_t>(life.one.world_size()), operation.request), std::nullopt};
    if (operation.crash == cases::CrashPoint::kNone) return requests;
    requests.killing.emplace();
    for (model::Dim r = 0; r < life.one.world_size(); ++r) {
      if (life.one.checkpointing.crash_rank.value_or(r) != r) continue;
      requests.by_rank[static_cast<std::size_t>(r)]["hold_at"] = cases::crash_point_name(operation.crash);
      requests.killing->ranks.push_back(r);
    }
    return requests;
  }

  // A crash is part of the plan: the life ends here, and what the survivors made of it is not judged.
  static CaseRun after_crash(const Operation& operation, const CallResult& result, const std::filesystem::path& trace) {
    std::error_code code;
    std::filesystem::remove_all(trace / trace::phase_folder(operation.name, operation.request["batch"].get<model::Dim>()), code);
    if (result.end == CallEnd::kKilled) return {RunEnd::kCompleted, "", {}, 0};
    if (result.end == CallEnd::kInterrupted) return {RunEnd::kInterrupted, "interrupted", {}, 0};
    return {RunEnd::kUnsupported,
            fmt::format("the subject did not stop at '{}' of its {}", cases::crash_point_name(operation.crash), operation.text), {}, 0};
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
    if (auto wrong = explain_resumption(operation, result)) return wrong;
    if (result.end == CallEnd::kTimedOut)
      return CaseRun{RunEnd::kTimedOut,
                     fmt::format("no reply to {} within {:.1f} s: {}", operation.text, static_cast<double>(limit.count()) / 1000,
                                 all_waiting(result)),
                     {}, 0};
    return std::nullopt;
  }

  // What the ranks made of it is an echo, but tells how far they came.
  static CaseRun explain_divergence(const Operation& operation, const CallResult& result) {
    const CollectiveMismatch& m = *result.mismatch;
    CaseRun run{RunEnd::kDiverged, "", {}, 0, m};
    run.reason = m.got.kind.empty()
                     ? fmt::format("in {} rank {} took no part in {}, in which rank {} waits for it", operation.text, m.rank,
                                   full_text(m.want), m.other_rank)
                     : fmt::format("in {} rank {} entered {}, rank {} had entered {}", operation.text, m.rank, full_text(m.got),
                                   m.other_rank, full_text(m.want));
    if (const std::string waiting = all_waiting(result); !waiting.empty()) run.reason += "; " + waiting;
    run.raised = raised_by(operation, result);
    return run;
  }

  // A save that cannot be read was written by the subject itself.
  static bool is_of_the_subject(const Operation& operation, std::string_view code) {
    return code == "error" || (code == "io" && operation.request.contains("resume"));
  }

  static std::vector<RaisedPhase> raised_by(const Operation& operation, const CallResult& result) {
    std::vector<RaisedPhase> raised;
    for (std::size_t r = 0; r < result.ranks.size(); ++r) {
      const auto& reply = result.ranks[r].reply;
      if (!reply || reply->is_ok || !is_of_the_subject(operation, reply->code)) continue;
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

  static std::string how_it_ended(const Operation& operation, const RankOutcome& rank, std::size_t r) {
    if (!rank.exit) return fmt::format("rank {} closed its socket in {} without a reply", r, operation.text);
    if (rank.is_launchers_exit) return fmt::format("the launcher ended with {} before rank {} answered {}", rank.exit->text(), r, operation.text);
    return fmt::format("rank {} ended in {} with {}", r, operation.text, rank.exit->text());
  }

  static std::optional<CaseRun> explain_end_of(const RankPool& pool, const Operation& operation, const CallResult& result, std::size_t r) {
    const RankOutcome& rank = result.ranks[r];
    if (!rank.protocol_error.empty())
      return CaseRun{RunEnd::kBroken, fmt::format("rank {} broke the protocol in {}: {}", r, operation.text, rank.protocol_error), {}, 0};
    if (!rank.exit && !rank.has_left) return std::nullopt;
    const std::string where = rank.waits_in ? "; " + waiting_text(r, rank) : "";
    const std::string output = pool.last_output(static_cast<model::Dim>(r));
    return CaseRun{RunEnd::kCrashed, fmt::format("{}{}{}{}", how_it_ended(operation, rank, r), where, output.empty() ? "" : "; its output ends: ", output), {}, 0};
  }

  static std::optional<CaseRun> explain_replies(const Operation& operation, const CallResult& result) {
    for (std::size_t r = 0; r < result.ranks.size(); ++r) {
      const auto& reply = result.ranks[r].reply;
      if (!reply || reply->is_ok || is_of_the_subject(operation, reply->code)) continue;
      const bool is_refusal = reply->code == "unsupported";
      return CaseRun{is_refusal ? RunEnd::kUnsupported : RunEnd::kBroken, fmt::format("rank {} in {}: {}", r, operation.text, reply->message), {}, 0};
    }
    CaseRun run{RunEnd::kRaised, "", raised_by(operation, result), 0};
    if (run.raised.empty()) return std::nullopt;
    run.reason = fmt::format("rank {} in {}: {}", run.raised[0].rank, operation.text, run.raised[0].message);
    if (const std::string waiting = all_waiting(result); !waiting.empty()) run.reason += "; " + waiting;
    return run;
  }

  // A load that took an older save than the newest whole one, or one that is not whole.
  static std::optional<CaseRun> explain_resumption(const Operation& operation, const CallResult& result) {
    CaseRun run{RunEnd::kRaised, "", {}, 0};
    for (std::size_t r = 0; operation.resumed_steps && r < result.ranks.size(); ++r) {
      const auto& reply = result.ranks[r].reply;
      if (!reply || !reply->steps || *reply->steps == *operation.resumed_steps) continue;
      run.raised.push_back({static_cast<model::Dim>(r), operation.name,
                            fmt::format("goes on after step {}, and the newest whole save is of step {}", *reply->steps,
                                        *operation.resumed_steps), "",
                            operation.batch});
    }
    if (run.raised.empty()) return std::nullopt;
    run.reason = fmt::format("rank {} in {}: {}", run.raised[0].rank, operation.text, run.raised[0].message);
    return run;
  }

  LauncherOptions options_;
  std::unique_ptr<ForkServer> fork_server_;
  std::map<model::Dim, std::unique_ptr<RankPool>> pools_;
  int next_pool_ = 0;
  bool is_pool_good_ = false;   // after the last case
};

}  // namespace

void LauncherOptions::take(const subject::Capabilities& capabilities) {
  forks_ranks = capabilities.has_fork_server;
  is_at_once = capabilities.is_one_shot;
}

std::unique_ptr<Launcher> make_process_launcher(LauncherOptions options) { return std::make_unique<ProcessLauncher>(std::move(options)); }

}  // namespace moecheck::launch
