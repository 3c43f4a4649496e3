#include "simulated_backward.h"

#include <cmath>

#include "harness/inputs/generator.h"

namespace moecheck::check {
namespace {

using base::HostTensor;
using model::Dim;

struct Parts {
  HostTensor scores, x, gate_up, down;
};

class Backward {
 public:
  explicit Backward(SimulatedRun& run) : run_(run), m_(run.one.problem.model), dtype_(run.one.problem.dtype) {}

  Parts parts_of(Dim rank) {
    const Dim T = run_.one.problem.num_tokens(rank);
    const HostTensor& held = run_.tensor(rank, "param/experts/gate_up_EGD");
    const base::Shape down = run_.tensor(rank, "param/experts/down_EDF").shape();
    Parts parts{zeros({T, m_.top_k}), zeros({T, m_.d_model}), zeros(held.shape()), zeros(down)};
    const HostTensor& keys = run_.tensor(rank, "dispatch/rows_R3");
    const Dim first_expert = run_.one.problem.mesh.coordinate(rank, "ep") * held.dim(0);
    const Dim first_token = run_.one.problem.first_token(rank);
    for (Dim r = 0; r < keys.dim(0); ++r)
      add_row(rank, r, {keys.int_at(3 * r) - first_token, keys.int_at(3 * r + 1), keys.int_at(3 * r + 2) - first_expert}, parts);
    return parts;
  }

  HostTensor d_logits(Dim rank, const HostTensor& d_scores) {
    const HostTensor &scores = run_.tensor(rank, "router/scores_TK"), &ids = run_.tensor(rank, "router/ids_TK");
    HostTensor result(dtype_, {d_scores.dim(0), m_.num_experts});
    for (Dim t = 0; t < d_scores.dim(0); ++t) {
      double mean = 0;
      for (Dim k = 0; k < m_.top_k; ++k) mean += scores.at(t * m_.top_k + k) * d_scores.at(t * m_.top_k + k);
      for (Dim k = 0; k < m_.top_k; ++k) {
        const Dim n = t * m_.top_k + k;
        result.set(t * m_.num_experts + ids.int_at(n), scores.at(n) * (d_scores.at(n) - mean));
      }
    }
    return result;
  }

  HostTensor rounded(const HostTensor& sum) const {
    HostTensor result(dtype_, sum.shape());
    for (Dim i = 0; i < sum.numel(); ++i) result.set(i, sum.at(i));
    return result;
  }

 private:
  struct Key {
    Dim token, slot, expert;
  };
  static HostTensor zeros(const base::Shape& shape) { return {base::DType::kF64, shape}; }
  static void add(HostTensor& sum, Dim at, double value) { sum.set(at, sum.at(at) + value); }
  double stored(double value) const { return base::round_to(dtype_, value); }

  void add_row(Dim rank, Dim r, const Key& key, Parts& parts) {
    const HostTensor &out = run_.tensor(rank, "experts/out_RD"), &act = run_.tensor(rank, "experts/act_RF");
    const HostTensor &in = run_.tensor(rank, "experts/in_RD"), &gate_up = run_.tensor(rank, "experts/gate_up_RG");
    const HostTensor &w1 = run_.tensor(rank, "param/experts/gate_up_EGD"), &w2 = run_.tensor(rank, "param/experts/down_EDF");
    const Dim D = m_.d_model, F = m_.d_ff, G = 2 * F;
    std::vector<float> d_y(static_cast<std::size_t>(D));
    inputs::Generator(run_.one.problem).output_grad_row(run_.one.problem.first_token(rank) + key.token, d_y);
    const double score = run_.tensor(rank, "router/scores_TK").at(key.token * m_.top_k + key.slot);
    std::vector<double> d_out, d_gate_up(static_cast<std::size_t>(G));
    for (Dim d = 0; d < D; ++d) {
      const double grad = static_cast<double>(d_y[static_cast<std::size_t>(d)]);
      d_out.push_back(stored(score * grad));
      add(parts.scores, key.token * m_.top_k + key.slot, grad * out.at(r * D + d));
    }
    for (Dim f = 0; f < F; ++f) {
      double d_act = 0;
      for (Dim d = 0; d < D; ++d) d_act += d_out[static_cast<std::size_t>(d)] * w2.at((key.expert * D + d) * F + f);
      d_act = stored(d_act);
      const double gate = gate_up.at(r * G + f), up = gate_up.at(r * G + F + f), sigmoid = 1 / (1 + std::exp(-gate));
      d_gate_up[static_cast<std::size_t>(f)] = stored(stored(d_act * up) * sigmoid * (1 + gate * (1 - sigmoid)));
      d_gate_up[static_cast<std::size_t>(F + f)] = stored(d_act * stored(gate * sigmoid));
      for (Dim d = 0; d < D; ++d) add(parts.down, (key.expert * D + d) * F + f, d_out[static_cast<std::size_t>(d)] * act.at(r * F + f));
    }
    for (Dim d = 0; d < D; ++d) {
      double d_in = 0;
      for (Dim g = 0; g < G; ++g) {
        d_in += d_gate_up[static_cast<std::size_t>(g)] * w1.at((key.expert * G + g) * D + d);
        add(parts.gate_up, (key.expert * G + g) * D + d, d_gate_up[static_cast<std::size_t>(g)] * in.at(r * D + d));
      }
      add(parts.x, key.token * D + d, stored(d_in));
    }
  }

  SimulatedRun& run_;
  const model::ModelSpec& m_;
  base::DType dtype_;
};

HostTensor summed(const std::vector<Parts>& parts, const std::vector<Dim>& ranks, HostTensor Parts::*which) {
  HostTensor sum(base::DType::kF64, (parts[static_cast<std::size_t>(ranks.front())].*which).shape());
  for (const Dim rank : ranks)
    for (Dim i = 0; i < sum.numel(); ++i) sum.set(i, sum.at(i) + (parts[static_cast<std::size_t>(rank)].*which).at(i));
  return sum;
}

void drop(SimulatedRun& run, const std::vector<std::string>& prefixes) {
  for (trace::RankTrace& rank : run.observed.ranks)
    std::erase_if(rank.taps, [&](const auto& tap) {
      return std::ranges::any_of(prefixes, [&](const std::string& prefix) { return tap.first.starts_with(prefix); });
    });
}

}  // namespace

void add_backward(SimulatedRun& run, bool is_dx_reduced) {
  const model::Problem& problem = run.one.problem;
  const Dim E = problem.model.num_experts, D = problem.model.d_model;
  Backward backward(run);
  std::vector<Parts> parts;
  for (Dim rank = 0; rank < run.one.world_size(); ++rank) parts.push_back(backward.parts_of(rank));
  HostTensor d_router(base::DType::kF64, {E, D});
  for (trace::RankTrace& rank : run.observed.ranks) {
    const auto group = problem.layer_group(rank.rank), replicas = problem.mesh.group(rank.rank, "dp");
    const HostTensor d_scores = backward.rounded(summed(parts, group, &Parts::scores));
    const HostTensor d_logits = backward.d_logits(rank.rank, d_scores);
    HostTensor d_x = summed(parts, is_dx_reduced ? group : std::vector<Dim>{rank.rank}, &Parts::x);
    const HostTensor &w = *rank.tensor("param/router/w_ED"), &x = *rank.tensor("input/x_TD");
    for (Dim t = 0; t < d_x.dim(0); ++t)
      for (Dim e = 0; e < E; ++e)
        for (Dim d = 0; d < D; ++d) {
          const double grad = d_logits.at(t * E + e);
          d_x.set(t * D + d, d_x.at(t * D + d) + grad * w.at(e * D + d));
          if (group.front() == rank.rank) d_router.set(e * D + d, d_router.at(e * D + d) + grad * x.at(t * D + d));
        }
    put(rank, "grad/scores_TK", d_scores);
    put(rank, "grad/logits_TE", d_logits);
    put(rank, "grad/x_TD", backward.rounded(d_x));
    put(rank, "grad/experts/gate_up_EGD", backward.rounded(summed(parts, replicas, &Parts::gate_up)));
    put(rank, "grad/experts/down_EDF", backward.rounded(summed(parts, replicas, &Parts::down)));
  }
  for (trace::RankTrace& rank : run.observed.ranks) put(rank, "grad/router/w_ED", backward.rounded(d_router));
}

void hide_inside(SimulatedRun& run) { drop(run, {"dispatch/", "experts/", "combine/"}); }

void hide_choices(SimulatedRun& run) { drop(run, {"router/ids"}); }
void hide_router(SimulatedRun& run) { drop(run, {"router/logits", "router/scores", "grad/logits", "grad/scores"}); }

}  // namespace moecheck::check
