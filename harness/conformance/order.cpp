// Requests in a wrong order, and unknown ones.
#include <array>

#include <fmt/format.h>

#include "harness/conformance/item.h"
#include "harness/conformance/trial.h"

namespace moecheck::conformance {
namespace {

using base::Json;

struct Disorder {
  const char* name;
  std::vector<const char*> operations;
};

const std::array kDisorders = {
    Disorder{"forward before open", {"forward"}},
    Disorder{"load before open", {"load"}},
    Disorder{"forward before load", {"open", "forward", "close"}},
    Disorder{"backward before forward", {"open", "load", "backward", "close"}},
    Disorder{"step before load", {"open", "step", "close"}},
    Disorder{"an operation that does not exist", {"open", "levitate", "close"}},
    Disorder{"load twice", {"open", "load", "load", "close"}},
    Disorder{"open again without close", {"open", "load", "open", "close"}},
    Disorder{"close twice", {"close", "close"}},
};

struct Talk {
  Trial& trial;
  launch::RankPool& pool;
  const cases::Case& one;
  std::filesystem::path checkpoint;

  Json request(const std::string& op) const {
    if (op == "open") return open_request(one, pool, checkpoint, trial.new_folder("t"));
    Json request = {{"op", op}};
    if (op != "load" && op != "close") request["batch"] = 0;
    return request;
  }
};

// Empty if each request was answered, whatever the answer.
std::string mistake_in(const Talk& talk, const Disorder& disorder) {
  talk.pool.begin_case(talk.one.problem.mesh);
  for (const char* op : disorder.operations) {
    const launch::CallResult result = ask(talk.pool, talk.request(op), talk.one.world_size(), talk.trial.options().limit);
    for (std::size_t r = 0; r < result.ranks.size(); ++r)
      if (const std::string silence = silence_text(result.ranks[r]); !silence.empty())
        return fmt::format("{}: to `{}` rank {} {}; answer it with \"ok\": false, \"code\": \"error\" and a message", disorder.name, op, r, silence);
  }
  return "";
}

// Empty if the case passes on these ranks.
std::string mistake_in_sound_case(const Talk& talk) {
  const auto trace = talk.trial.new_folder("t");
  std::vector<Json> requests = requests_after_open(talk.one);
  requests.insert(requests.begin(), open_request(talk.one, talk.pool, talk.checkpoint, trace));
  talk.pool.begin_case(talk.one.problem.mesh);
  for (const Json& request : requests) {
    const launch::CallResult result = ask(talk.pool, request, talk.one.world_size(), talk.trial.options().limit);
    for (std::size_t r = 0; r < result.ranks.size(); ++r) {
      const std::string silence = silence_text(result.ranks[r]);
      const std::string op = request["op"].get<std::string>();
      if (!silence.empty()) return fmt::format("to `{}` rank {} {}", op, r, silence);
      if (!result.ranks[r].reply->is_ok) return fmt::format("to `{}` rank {} answers: {}", op, r, result.ranks[r].reply->message);
    }
  }
  auto judged = driver::judge_trace(talk.one, trace, {});
  if (!judged) return judged.error().text();
  return judged->verdict == record::Verdict::kPass ? "" : record_text(*judged);
}

}  // namespace

ItemResult order(Trial& trial) {
  if (trial.capabilities().is_one_shot) return not_applicable("a subject that takes a case whole is given its requests in order");
  const auto& sound = trial.sound_case();
  if (!sound) return failed("no case passes, with which to see that ranks are as good as before; begin with --only cases");
  const auto checkpoint = trial.new_checkpoint(sound->one);
  if (!checkpoint) return failed(checkpoint.error().text());
  auto pool = trial.start_ranks(sound->one.world_size());
  if (!pool) return failed(pool.error().text());
  const Talk talk{trial, **pool, sound->one, *checkpoint};
  for (const Disorder& disorder : kDisorders)
    if (const std::string mistake = mistake_in(talk, disorder); !mistake.empty()) return failed(mistake);
  if (const std::string mistake = mistake_in_sound_case(talk); !mistake.empty())
    return failed(fmt::format("after requests in a wrong order a sound case does not pass on the same ranks ({}): {}; "
                              "a refused request must leave nothing behind", sound->id, mistake));
  return ok(fmt::format("{} disorders are answered, and {} passes afterwards", kDisorders.size(), sound->id));
}

}  // namespace moecheck::conformance
