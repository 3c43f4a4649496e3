#include "harness/launch/rank_pool.h"

#include <algorithm>
#include <csignal>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <fmt/format.h>

#include "harness/base/files.h"
#include "harness/launch/interrupts.h"
#include "harness/launch/output_tail.h"

namespace moecheck::launch {
namespace {

using base::Error;
using base::ErrorCode;
using base::Json;
using Clock = std::chrono::steady_clock;

// Ranks that wait for a failed one learn of it within this time, or never.
constexpr std::chrono::milliseconds kGrace{1500};
// What a launcher is given to notice that its ranks are gone.
constexpr std::chrono::milliseconds kLauncherGrace{3000};
constexpr std::size_t kShown = 200;   // bytes of a bad line in a message

struct Rank {
  StartedRank started;
  std::optional<subject::CollectiveEvent> waits_in = {};
};

class ProcessPool final : public RankPool {
 public:
  explicit ProcessPool(StartOptions options) : options_(std::move(options)) {}
  ~ProcessPool() override {
    if (launcher_) end_launched();
  }

  base::Status launch() {
    if (auto made = base::make_folders(rendezvous()); !made) return made.error();
    auto started = start_ranks(options_);
    if (!started) return started.error();
    launcher_ = std::move(started->launcher);
    for (StartedRank& rank : started->ranks) ranks_.push_back({std::move(rank)});
    return base::Ok{};
  }

  void begin_case(const model::Mesh& mesh) override { ledger_ = CollectiveLedger(mesh); }

  CallResult call(const std::vector<Json>& requests, std::chrono::milliseconds limit, const std::optional<Killing>& killing) override {
    MOECHECK_REQUIRE(requests.size() == ranks_.size());
    result_ = CallResult{CallEnd::kAnswered, std::vector<RankOutcome>(ranks_.size())};
    ++request_id_;
    abandoned_.reset();
    deadline_ = Clock::now() + limit;
    send_requests(requests);
    if (options_.on_sent) options_.on_sent(requests[0], processes());
    while (!is_settled()) {
      if (Clock::now() >= deadline_) {
        if (result_.end == CallEnd::kAnswered) result_.end = CallEnd::kTimedOut;
        break;
      }
      if (num_interrupts() >= 2) {
        result_.end = CallEnd::kInterrupted;
        break;
      }
      wait_for_news();
      look_for_abandoned();
      if (killing && result_.end != CallEnd::kKilled && is_due(*killing)) carry_out(*killing);
    }
    for (std::size_t r = 0; r < ranks_.size(); ++r)
      if (!result_.ranks[r].reply) result_.ranks[r].waits_in = ranks_[r].waits_in;
    return std::move(result_);
  }

  std::filesystem::path rendezvous() const override { return rendezvous_in(options_.folder); }

  std::string last_output(model::Dim rank) const override { return output_tail(log_path(options_, rank)); }

 private:
  bool is_at_once() const { return !options_.plan.empty(); }

  std::vector<int> processes() const {
    std::vector<int> ids;
    for (const Rank& rank : ranks_)
      if (rank.started.process) ids.push_back(rank.started.process->pid());
    return ids;
  }

  // The process whose end is the rank's; none where a launcher that lives on started it.
  ChildProcess* process_of(std::size_t r) {
    if (ranks_[r].started.process) return &*ranks_[r].started.process;
    return is_at_once() && launcher_ ? &*launcher_ : nullptr;
  }

  // The ranks leave when their sockets close; what does not is ended here, then the launcher.
  void end_launched() {
    for (Rank& rank : ranks_) rank.started.channel.close();
    const auto deadline = Clock::now() + kGrace;
    for (Rank& rank : ranks_) {
      if (rank.started.foreign.fd < 0) continue;
      pollfd fd{rank.started.foreign.fd, POLLIN, 0};
      if (::poll(&fd, 1, milliseconds_until(deadline)) <= 0) kill_foreign(rank);
    }
    if (launcher_->wait_for(kLauncherGrace)) return;
    launcher_->terminate(kAskedGrace);   // its end is in its destructor
  }

  static void kill_foreign(const Rank& rank) { ::syscall(SYS_pidfd_send_signal, rank.started.foreign.fd, SIGKILL, nullptr, 0); }

  void send_requests(const std::vector<Json>& requests) {
    for (std::size_t r = 0; r < ranks_.size(); ++r) {
      ranks_[r].waits_in.reset();
      if (is_at_once()) {
        understand_lines(r);   // what it said while the one before was judged
        continue;
      }
      Json request = requests[r];
      request["id"] = request_id_;
      ranks_[r].started.channel.send_line(request);
    }
  }

  // At least one is where it is to be killed, and the others of them have come as far as they can.
  bool is_due(const Killing& killing) const {
    const auto is_held = [&](model::Dim r) { return !result_.ranks[static_cast<std::size_t>(r)].held_at.empty(); };
    const auto is_stuck = [&](model::Dim r) {
      return is_held(r) || is_done(result_.ranks[static_cast<std::size_t>(r)]) || ranks_[static_cast<std::size_t>(r)].waits_in.has_value();
    };
    return std::ranges::any_of(killing.ranks, is_held) && std::ranges::all_of(killing.ranks, is_stuck);
  }

  void carry_out(const Killing& killing) {
    for (const model::Dim r : killing.ranks) {
      Rank& rank = ranks_[static_cast<std::size_t>(r)];
      if (rank.started.process) {
        ::kill(rank.started.process->pid(), SIGKILL);
      } else {
        kill_foreign(rank);
      }
    }
    result_.end = CallEnd::kKilled;
    deadline_ = std::min(deadline_, Clock::now() + kGrace);
  }

  static bool is_done(const RankOutcome& rank) { return rank.reply || rank.exit || rank.has_left || !rank.protocol_error.empty(); }
  bool is_settled() const { return std::ranges::all_of(result_.ranks, is_done); }

  void note_failure(std::size_t r) {
    if (result_.end != CallEnd::kAnswered) return;
    result_.end = CallEnd::kFailed;
    result_.first_failed = r;
    deadline_ = std::min(deadline_, Clock::now() + kGrace);
  }

  void wait_for_news() {
    std::vector<pollfd> fds;
    for (std::size_t r = 0; r < ranks_.size(); ++r) {
      const bool is_open = !is_done(result_.ranks[r]);
      const ChildProcess* process = process_of(r);
      fds.push_back({is_open ? ranks_[r].started.channel.fd() : -1, POLLIN, 0});
      fds.push_back({is_open && process != nullptr ? process->pidfd() : -1, POLLIN, 0});
    }
    if (::poll(fds.data(), fds.size(), milliseconds_until(deadline_)) <= 0) return;
    for (std::size_t r = 0; r < ranks_.size(); ++r) {
      // What it said before it ended counts.
      if (fds[2 * r].revents != 0) hear(r);
      if (fds[2 * r + 1].revents != 0 && fds[2 * r].revents == 0) note_exit(r);
    }
  }

  void note_exit(std::size_t r) {
    if (is_done(result_.ranks[r])) return;
    const auto exit = process_of(r)->exited();
    if (!exit) return;
    if (is_at_once() && exit->signal == 0 && exit->exit_code == 0) {
      // Nothing was asked of it, and it ended well.
      result_.ranks[r].reply = subject::Reply{true, "", "", "", "", "", {}};
      return;
    }
    result_.ranks[r].exit = exit;
    result_.ranks[r].is_launchers_exit = !ranks_[r].started.process;
    note_failure(r);
  }

  void hear(std::size_t r) {
    if (!ranks_[r].started.channel.read_some()) {
      ChildProcess* process = process_of(r);
      const auto exit = process != nullptr ? process->wait_for(kGrace) : std::nullopt;
      // A launcher that notices prints why.
      if (process == nullptr) launcher_->wait_for(kGrace);
      result_.ranks[r].exit = exit;
      result_.ranks[r].has_left = !exit;
      return note_failure(r);
    }
    understand_lines(r);
    if (ranks_[r].started.channel.is_overfull() && !is_done(result_.ranks[r])) {
      result_.ranks[r].protocol_error = fmt::format("sent more than {} bytes without a line end", Channel::kMaxLine);
      note_failure(r);
    }
  }

  // A rank that was given the whole case is ahead: what follows its answer belongs to later requests.
  void understand_lines(std::size_t r) {
    while (!(is_at_once() && is_done(result_.ranks[r]))) {
      const auto line = ranks_[r].started.channel.take_line();
      if (!line) return;
      understand(r, *line);
    }
  }

  void understand(std::size_t r, const std::string& line) {
    RankOutcome& outcome = result_.ranks[r];
    auto message = base::parse_json(line, "message");
    if (!message || !message->is_object()) {
      outcome.protocol_error = fmt::format("sent what is not a JSON object: '{}'", line.substr(0, kShown));
      return note_failure(r);
    }
    if (message->contains("event")) return note_event(r, *message);
    const Json id = message->contains("id") ? (*message)["id"] : Json(nullptr);
    if (!id.is_number_integer() || id.get<std::int64_t>() != request_id_) {
      outcome.protocol_error = fmt::format("answered request {} with id {}", request_id_, id.dump());
      return note_failure(r);
    }
    if (outcome.reply) {
      outcome.protocol_error = fmt::format("answered request {} twice", request_id_);
      return note_failure(r);
    }
    auto reply = subject::reply_from_json(*message);
    if (!reply) {
      outcome.protocol_error = reply.error().text();
      return note_failure(r);
    }
    outcome.reply = *reply;
    if (!reply->is_ok) note_failure(r);
  }

  void note_event(std::size_t r, const Json& message) {
    if (message["event"] == "at" && message.contains("point") && message["point"].is_string()) result_.ranks[r].held_at = message["point"];
    // Events that a later protocol may add say nothing about waiting.
    if (message["event"] != "enter" && message["event"] != "leave") return;
    auto event = subject::collective_event_from_json(message);
    if (!event) return;
    ranks_[r].waits_in = event->is_enter ? std::optional(*event) : std::nullopt;
    if (!event->is_enter || result_.mismatch) return;
    if (auto mismatch = ledger_.enter(static_cast<model::Dim>(r), event->collective)) note_mismatch(*std::move(mismatch));
  }

  // A rank that waits in a collective for one that has answered already. It may only not have said yet that it left: it is given a
  // grace.
  void look_for_abandoned() {
    std::optional<CollectiveMismatch> found;
    // One that raised is a cause of its own.
    const auto is_answered = [&](model::Dim rank) {
      const auto& reply = result_.ranks[static_cast<std::size_t>(rank)].reply;
      return reply && reply->is_ok;
    };
    for (std::size_t r = 0; r < ranks_.size() && !found; ++r)
      if (ranks_[r].waits_in && !result_.ranks[r].reply)
        found = ledger_.abandoned(static_cast<model::Dim>(r), ranks_[r].waits_in->collective, is_answered);
    const bool is_same = found && abandoned_ && found->other_rank == abandoned_->other_rank && found->want == abandoned_->want;
    if (!is_same) {
      abandoned_ = std::move(found);
      abandoned_since_ = Clock::now();
    } else if (Clock::now() - abandoned_since_ >= kGrace && !result_.mismatch) {
      note_mismatch(*abandoned_);
    }
  }

  // A rank that raised may have been heard before the one that it did not agree with: then this is why. A rank that ended is a
  // cause of its own.
  void note_mismatch(CollectiveMismatch mismatch) {
    if (result_.end == CallEnd::kFailed && !result_.ranks[result_.first_failed].reply) return;
    result_.end = CallEnd::kDiverged;
    result_.mismatch = std::move(mismatch);
    deadline_ = std::min(deadline_, Clock::now() + kGrace);
  }

  StartOptions options_;
  std::optional<ChildProcess> launcher_;
  std::vector<Rank> ranks_;
  std::int64_t request_id_ = 0;
  CallResult result_;
  CollectiveLedger ledger_{model::Mesh()};
  std::optional<CollectiveMismatch> abandoned_;
  Clock::time_point abandoned_since_;
  Clock::time_point deadline_;
};

}  // namespace

base::Result<std::unique_ptr<RankPool>> RankPool::start(const StartOptions& options) {
  auto pool = std::make_unique<ProcessPool>(options);
  if (auto launched = pool->launch(); !launched) return launched.error();
  return std::unique_ptr<RankPool>(std::move(pool));
}

}  // namespace moecheck::launch
