#include "simulated_lives.h"

#include <atomic>
#include <cstdlib>

#include <fmt/format.h>
#include <unistd.h>

#include "harness/base/philox.h"
#include "harness/checkpoint/save_rank.h"
#include "harness/trace/layout.h"
#include "harness/trace/tap_points.h"

namespace moecheck::check {
namespace {

using base::HostTensor;

const std::vector<std::string> kWeights = {"attention/w_DD", "router/w_ED", "experts/gate_up_EGD", "experts/down_EDF"};
const std::vector<std::string> kTrained = {"router/w_ED", "experts/gate_up_EGD", "experts/down_EDF"};

std::filesystem::path fresh_folder() {
  static std::atomic<int> number = 0;
  std::filesystem::path base = std::filesystem::temp_directory_path();
  if (const char* named = std::getenv("MOECHECK_TMPDIR"); named != nullptr && *named != '\0') base = named;
  else if (::access("/dev/shm", W_OK) == 0) base = "/dev/shm";
  return base / fmt::format("moecheck_lives_{}_{}", ::getpid(), number++);
}

// In (-1, 1), of 16 bits.
double value_of(const std::string& name, Dim steps, Dim index) {
  const std::string key = fmt::format("{}/{}/{}", name, steps, index);
  const std::uint64_t hash = base::fnv1a(key.data(), key.size());
  return static_cast<double>((hash >> 20) % 65535) / 32768.0 - 1.0;
}

HostTensor random(const std::string& name, Dim steps, base::DType dtype, const base::Shape& shape) {
  HostTensor tensor(dtype, shape);
  for (Dim i = 0; i < tensor.numel(); ++i) tensor.set(i, value_of(name, steps, i));
  return tensor;
}

// Element by element: no code of the checks.
HostTensor cut(const cases::Case& one, const std::string& tap, const HostTensor& global, Dim rank) {
  const auto cuts = trace::declared_cuts(one.problem, tap);
  HostTensor part(global.dtype(), model::held_shape(cuts, global.shape(), one.problem.mesh, rank));
  std::vector<std::vector<Dim>> held;
  for (std::size_t d = 0; d < global.shape().size(); ++d)
    held.push_back(model::held_indices(cuts, global.dim(d), static_cast<Dim>(d), one.problem.mesh, rank));
  for (Dim i = 0; i < part.numel(); ++i) {
    Dim rest = i, from = 0, stride = 1;
    for (std::size_t d = held.size(); d-- > 0;) {
      const auto size = static_cast<Dim>(held[d].size());
      from += stride * held[d][static_cast<std::size_t>(rest % size)];
      stride *= global.dim(d);
      rest /= size;
    }
    part.set(i, global.at(from));
  }
  return part;
}

bool is_param(const std::string& name) { return trace::find_tap(name)->kind == trace::TapKind::kParam; }

trace::Tapped tapped(const cases::Case& one, const std::string& tap, const HostTensor& global, Dim rank) {
  if (is_param(tap)) return {cut(one, tap, global, rank), trace::declared_cuts(one.problem, tap), global.shape()};
  HostTensor copy(global.dtype(), global.shape());
  std::ranges::copy(global.bytes(), copy.mutable_bytes().begin());
  return {copy, {}, global.shape()};
}

std::vector<std::string> state_names(const cases::Case& one, Dim steps) {
  std::vector<std::string> names;
  for (const std::string& p : kWeights) names.push_back("param/" + p);
  if (!one.has_phase("step")) return names;
  for (const std::string& p : kTrained) {
    names.push_back("optim/master/" + p);
    if (steps > 0) names.insert(names.end(), {"optim/m/" + p, "optim/v/" + p});
  }
  if (steps > 0) names.push_back("optim/steps_3");
  names.insert(names.end(), {"state/batches_1", "state/lr_1", "state/tokens_E"});
  return names;
}

// Token t of batch b chooses experts (t + b) and (t + b + 1) modulo E.
HostTensor choices(const cases::Case& one, Dim rank, Dim batch) {
  const model::Problem& problem = one.problem;
  HostTensor ids_TK(base::DType::kI64, {problem.num_tokens(rank), problem.model.top_k});
  for (Dim i = 0; i < ids_TK.numel(); ++i) {
    const Dim token = problem.first_token(rank) + i / problem.model.top_k;
    ids_TK.set(i, static_cast<double>((token + batch + i % problem.model.top_k) % problem.model.num_experts));
  }
  return ids_TK;
}

}  // namespace

cases::Case case_with_lives(const std::string& mesh, const std::vector<std::string>& restarts) {
  cases::Case one;
  one.impl = "ep_alltoall";
  one.problem.model = {.family = "tiny", .num_experts = 4, .top_k = 2, .d_model = 6, .d_ff = 4, .activation = {}, .names = {}};
  one.problem.model.names = {"layer.gate.weight", "layer.experts.{e}.gate_proj.weight", "layer.experts.{e}.up_proj.weight",
                             "layer.experts.{e}.down_proj.weight", "attention.weight"};
  one.problem.mesh = model::Mesh::parse(mesh).value();
  one.problem.dtype = base::DType::kF32;
  one.problem.tokens_per_rank = {5};
  one.phases = {"load", "forward", "backward", "step"};
  one.training = {.steps = 2, .microbatches = 2, .optimizer = cases::OptimizerKind::kAdamW, .learning_rate = 0.25, .lr_decay = 0.5};
  one.checkpointing.save = cases::SaveFormat::kSharded;
  one.checkpointing.save_after = 1;
  one.checkpointing.controls = 2;
  for (const std::string& restart : restarts) one.checkpointing.restarts.push_back({"", model::Mesh::parse(restart).value()});
  return one;
}

HostTensor global_state(const cases::Case& one, const std::string& name, Dim steps) {
  const model::ModelSpec& m = one.problem.model;
  const Dim num_batches = steps * one.training.microbatches;
  if (name == "optim/steps_3") return base::tensor_from_ints({3}, std::vector<Dim>(3, steps));
  if (name == "state/batches_1") return base::tensor_from_ints({1}, std::vector<Dim>{num_batches});
  if (name == "state/lr_1") return base::tensor_from_doubles(base::DType::kF64, {1}, std::vector<double>{one.learning_rate_of(steps)});
  if (name == "state/tokens_E") {
    std::vector<Dim> counts(static_cast<std::size_t>(m.num_experts), 0);
    for (Dim b = 0; b < num_batches; ++b)
      for (Dim t = 0; t < one.problem.total_tokens(); ++t)
        for (Dim k = 0; k < m.top_k; ++k) ++counts[static_cast<std::size_t>((t + b + k) % m.num_experts)];
    return base::tensor_from_ints({m.num_experts}, counts);
  }
  const bool is_weight = name.starts_with("param/");
  const Dim changed = name == "param/attention/w_DD" ? 0 : steps;   // no step touches it
  return random(name, changed, is_weight ? one.problem.dtype : base::DType::kF32, trace::global_param_shape(m, name));
}

SimulatedLives::SimulatedLives(const cases::Case& of) : one(of), root_(fresh_folder()) {
  const std::vector<cases::Life> planned = cases::lives_of(one);
  for (const cases::Life& life : planned) add_life(life, cases::steps_before(planned, life));
  for (std::size_t i = 0; i < lives.size(); ++i)
    for (const cases::PlannedSave& save : lives[i].life.saves) save_again(i, save.after, [](Dim, auto&) {});
}

SimulatedLives::~SimulatedLives() { std::filesystem::remove_all(root_); }

void SimulatedLives::show_state(const cases::Case& of, Dim steps, bool is_step, trace::Trace& trace) const {
  for (Dim r = 0; r < of.world_size(); ++r) {
    auto& taps = trace.ranks.at(static_cast<std::size_t>(r)).taps;
    for (const std::string& name : state_names(one, steps)) {
      const bool is_weight = name.starts_with("param/");
      if (is_step && name == "param/attention/w_DD") continue;
      taps[(is_step && is_weight ? "optim/" : "") + name] = tapped(of, name, global_state(one, name, steps), r);
    }
  }
}

trace::Trace SimulatedLives::batch_of(const cases::Case& of, Dim batch) const {
  trace::Trace trace;
  for (Dim r = 0; r < of.world_size(); ++r) {
    trace::RankTrace& rank = trace.ranks.emplace_back();
    rank.rank = r;
    rank.implementation = of.impl;
    rank.experts_backend = of.experts_backend;
    for (const std::string& p : batch == of.first_batch ? kWeights : kTrained)
      rank.taps["param/" + p] = tapped(of, "param/" + p, global_state(one, "param/" + p, of.step_of(batch)), r);
    if (!of.has_phase("forward")) continue;
    const HostTensor ids_TK = choices(of, r, batch);
    rank.taps["router/ids_TK"] = {ids_TK, {}, ids_TK.shape()};
    const HostTensor y_TD = random(fmt::format("y/{}", of.problem.first_token(r)), batch, of.problem.dtype, {of.problem.num_tokens(r), of.problem.model.d_model});
    rank.taps["output/y_TD"] = {y_TD, {}, y_TD.shape()};
  }
  if (of.ends_step(batch)) show_state(of, of.step_of(batch) + 1, true, trace);
  return trace;
}

void SimulatedLives::add_life(const cases::Life& planned, Dim steps_before) {
  SimulatedLife& life = lives.emplace_back(SimulatedLife{planned, {}, {}, {}, {}});
  const cases::Case& of = life.life.one;
  const auto blank = [&] {
    trace::Trace trace;
    for (Dim r = 0; r < of.world_size(); ++r) trace.ranks.emplace_back().rank = r;
    return trace;
  };
  life.loaded = blank();
  show_state(of, steps_before, false, life.loaded);
  for (Dim b = 0; b < std::max(of.num_batches(), of.first_batch + 1); ++b) {
    life.expected.push_back({std::vector<trace::ExpectedRank>(static_cast<std::size_t>(of.world_size()))});
    if (b + 1 < of.first_batch) {
      life.batches.emplace_back();
    } else if (b + 1 == of.first_batch) {
      life.batches.push_back(blank());
      show_state(of, steps_before, true, life.batches.back());
    } else {
      life.batches.push_back(batch_of(of, b));
    }
  }
}

HostTensor& SimulatedLives::loaded(std::size_t life, std::size_t rank, const std::string& tap) { return lives.at(life).loaded.ranks.at(rank).taps.at(tap).tensor; }

HostTensor& SimulatedLives::shown(std::size_t life, std::size_t batch, std::size_t rank, const std::string& tap) {
  return lives.at(life).batches.at(batch).ranks.at(rank).taps.at(tap).tensor;
}

std::filesystem::path SimulatedLives::folder_of(std::size_t life, Dim steps) const { return root_ / fmt::format("life{}", life) / cases::save_folder(steps); }

void SimulatedLives::save_again(std::size_t life, Dim steps, const Change& change) {
  std::filesystem::remove_all(folder_of(life, steps));
  std::filesystem::create_directories(folder_of(life, steps));
  if (one.checkpointing.save == cases::SaveFormat::kSharded) write_sharded(life, steps, change);
  else write_weights(life, steps, change);
  read_again(life, steps);
}

void SimulatedLives::read_again(std::size_t life, Dim steps) {
  lives.at(life).saves.insert_or_assign(steps, checkpoint::survey(folder_of(life, steps)).value());
}

void SimulatedLives::write_sharded(std::size_t life, Dim steps, const Change& change) {
  const cases::Case& of = lives.at(life).life.one;
  checkpoint::Index index;
  index.world_size = of.world_size();
  index.mesh = of.problem.mesh;
  for (Dim r = 0; r < of.world_size(); ++r) {
    std::map<std::string, HostTensor> parts;
    for (const std::string& name : state_names(one, steps)) parts[name] = tapped(of, name, global_state(one, name, steps), r).tensor;
    change(r, parts);
    std::vector<checkpoint::LocalTensor> tensors;
    for (const auto& [name, part] : parts) {
      const bool is_cut = trace::find_tap(name) != nullptr && is_param(name);
      tensors.push_back({name, part, is_cut ? trace::declared_cuts(of.problem, name) : std::vector<model::Cut>{},
                         is_cut ? trace::global_param_shape(of.problem.model, name) : part.shape()});
    }
    MOECHECK_REQUIRE(checkpoint::write_rank_file(folder_of(life, steps), of.problem.mesh, r, tensors).ok());
    checkpoint::add_shards(index, r, tensors);
  }
  MOECHECK_REQUIRE(checkpoint::write_index(folder_of(life, steps), index).ok());
}

void SimulatedLives::write_weights(std::size_t life, Dim steps, const Change& change) {
  const model::ModelSpec& m = one.problem.model;
  std::map<std::string, HostTensor> tensors;
  tensors[m.names.router] = global_state(one, "param/router/w_ED", steps);
  tensors[m.names.attention] = global_state(one, "param/attention/w_DD", steps);
  const HostTensor gate_up = global_state(one, "param/experts/gate_up_EGD", steps), down = global_state(one, "param/experts/down_EDF", steps);
  const auto part = [&](const HostTensor& from, const base::Shape& shape, Dim first) {
    HostTensor tensor(from.dtype(), shape);
    for (Dim i = 0; i < tensor.numel(); ++i) tensor.set(i, from.at(first + i));
    return tensor;
  };
  const Dim half = m.d_ff * m.d_model;
  for (Dim e = 0; e < m.num_experts && one.checkpointing.weights == cases::WeightLayout::kPerExpert; ++e) {
    tensors[model::expert_tensor_name(m.names.gate, e)] = part(gate_up, {m.d_ff, m.d_model}, 2 * e * half);
    tensors[model::expert_tensor_name(m.names.up, e)] = part(gate_up, {m.d_ff, m.d_model}, (2 * e + 1) * half);
    tensors[model::expert_tensor_name(m.names.down, e)] = part(down, {m.d_model, m.d_ff}, e * half);
  }
  if (one.checkpointing.weights == cases::WeightLayout::kPacked) {
    tensors["layer.experts.gate_up_proj"] = gate_up;
    tensors["layer.experts.down_proj"] = down;
  }
  change(0, tensors);
  std::vector<trace::NamedTensor> named;
  for (const auto& [name, tensor] : tensors) named.push_back({name, tensor});
  MOECHECK_REQUIRE(trace::write_safetensors(folder_of(life, steps) / "model.safetensors", named, {}).ok());
}

CheckOutcome SimulatedLives::check(const std::string& name) const {
  std::vector<LifeInput> inputs;
  for (const SimulatedLife& life : lives) inputs.push_back({life.life, life.loaded, life.batches, life.expected, life.saves});
  return find_check(name)->run_case({one, inputs});
}

CheckOutcome SimulatedLives::check_batch(const std::string& name, std::size_t life, Dim batch) const {
  const SimulatedLife& of = lives.at(life);
  const auto at = static_cast<std::size_t>(batch);
  return find_check(name)->run({of.life.one, of.expected[at], of.batches[at], {}, batch, std::span(of.batches).first(at)});
}

}  // namespace moecheck::check
