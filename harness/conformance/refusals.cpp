// Cases outside of what is declared, sent to the ranks past the driver, which would refuse them itself.
#include <algorithm>

#include <fmt/format.h>

#include "harness/conformance/declared.h"
#include "harness/conformance/item.h"
#include "harness/conformance/trial.h"

namespace moecheck::conformance {
namespace {

constexpr const char* kRemedy = "answer `open` with \"ok\": false, \"code\": \"unsupported\" and a message";

bool has(const std::vector<std::string>& list, const std::string& name) { return std::ranges::find(list, name) != list.end(); }

// The mesh that a probe of something else is over.
std::string usual_mesh(const subject::ImplementationInfo& impl) { return impl.mesh_dims.empty() ? "none" : impl.mesh_dims.front() + "=2"; }

std::vector<std::string> probes(const subject::Capabilities& c) {
  std::vector<std::string> ids;
  for (const subject::ImplementationInfo& impl : c.implementations) {
    for (const char* dim : {"dp", "fsdp", "ep", "tp"})
      if (!has(impl.mesh_dims, dim)) ids.push_back(basic_case(c, impl, std::string(dim) + "=2"));
    const std::string usual = basic_case(c, impl, usual_mesh(impl));
    for (const char* backend : {"eager", "batched_mm", "grouped_mm", "of_nobody"})
      if (!has(impl.experts_backends, backend))
        ids.push_back(usual.substr(0, usual.find(" experts_backend=")) +
                      fmt::format(" experts_backend={} phases={}", backend, phases_of(c)));
    if (&impl != &c.implementations.front()) continue;
    const std::string tail = usual.substr(usual.find(" model="));
    ids.push_back("impl=of_nobody" + tail);
    ids.push_back(usual + " fault=of_nobody");
    if (!has(c.devices, "cuda")) ids.push_back(usual + " device=cuda");
    for (const char* dtype : {"fp32", "bf16"})
      if (!has(c.dtypes, dtype))
        ids.push_back(fmt::format("impl={} model=qwen3_moe mesh={} dtype={} experts_backend={} phases={}", impl.name, usual_mesh(impl),
                                  dtype, usual_backend(impl), phases_of(c)));
  }
  return ids;
}

// What is wrong with how the ranks took it; empty if all refused. `has_refused`: no further request makes sense.
struct Reaction {
  bool has_refused = false;
  std::string mistake;
};

Reaction reaction_to(const std::string& op, const launch::CallResult& result) {
  std::size_t num_refused = 0;
  for (std::size_t r = 0; r < result.ranks.size(); ++r) {
    const launch::RankOutcome& rank = result.ranks[r];
    if (const std::string silence = silence_text(rank); !silence.empty()) return {false, fmt::format("to {} rank {} {}", op, r, silence)};
    if (!rank.reply->is_ok && rank.reply->code != "unsupported")
      return {false, fmt::format("to {} rank {} answers with code {}: {}", op, r, rank.reply->code, rank.reply->message)};
    if (!rank.reply->is_ok && rank.reply->message.empty()) return {false, fmt::format("rank {} refuses without a message", r)};
    num_refused += rank.reply->is_ok ? 0 : 1;
  }
  if (num_refused != 0 && num_refused != result.ranks.size()) return {false, "some ranks refuse and others do not"};
  return {num_refused != 0, ""};
}

// Empty if the ranks refuse the case, on open or on the first request that shows it.
std::string mistake_with(Trial& trial, launch::RankPool& pool, const cases::Case& one, const std::filesystem::path& checkpoint) {
  pool.begin_case(one.problem.mesh);
  std::vector<base::Json> requests = requests_after_open(one);
  requests.insert(requests.begin(), open_request(one, pool, checkpoint, trial.new_folder("t")));
  requests.pop_back();   // close
  Reaction reaction;
  for (const base::Json& request : requests) {
    reaction = reaction_to(request["op"].get<std::string>(), ask(pool, request, one.world_size(), trial.options().limit));
    if (!reaction.mistake.empty()) return reaction.mistake;
    if (reaction.has_refused) break;
  }
  for (const launch::RankOutcome& rank : ask(pool, {{"op", "close"}}, one.world_size(), trial.options().limit).ranks)
    if (const std::string silence = silence_text(rank); !silence.empty()) return "to close a rank " + silence;
  return reaction.has_refused ? "" : "the ranks ran it as if it were something else";
}

}  // namespace

ItemResult refusals(Trial& trial) {
  if (trial.capabilities().is_one_shot) return not_applicable("a subject that takes a case whole is started for what the driver lets through only");
  const std::vector<std::string> ids = probes(trial.capabilities());
  std::map<model::Dim, std::unique_ptr<launch::RankPool>> pools;
  int num_probed = 0;
  for (const std::string& id : ids) {
    const auto one = trial.case_of(id);
    if (!one) continue;
    const model::Dim world_size = one->one.world_size();
    auto& pool = pools[world_size];
    if (pool == nullptr) {
      auto started = trial.start_ranks(world_size);
      if (!started) return failed(started.error().text());
      pool = *std::move(started);
    }
    const auto checkpoint = trial.new_checkpoint(one->one);
    if (!checkpoint) return failed(checkpoint.error().text());
    if (const std::string mistake = mistake_with(trial, *pool, one->one, *checkpoint); !mistake.empty())
      return failed(fmt::format("{}, which is not declared: {}; {}", one->id, mistake, kRemedy));
    ++num_probed;
  }
  if (num_probed == 0) return not_applicable("everything that a case can ask for is declared");
  return ok(fmt::format("{} cases outside of what is declared are refused", num_probed));
}

}  // namespace moecheck::conformance
