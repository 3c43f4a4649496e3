// Expert parallelism in its simplest form, in plain C++: tokens replicated over ep, every rank computes its own experts, all-reduce of the sums.
// A plug-in to begin with. It shows what it computes tensor by tensor; what a layer of your own does not show is listed as unobserved.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include <moecheck_plugin.hpp>

namespace {

using Floats = moecheck::native::Tensor<float>;
using Ints = moecheck::native::Tensor<std::int64_t>;

float dot(const float* a, const float* b, std::int64_t n) { return std::inner_product(a, a + n, b, 0.0F); }
// into += scale * from
void add(float* into, const float* from, std::int64_t n, float scale = 1) {
  for (std::int64_t i = 0; i < n; ++i) into[i] += scale * from[i];
}
// into (N) = matrix (N, K) times x, or into (K) += x (N) times matrix
void times(float* into, const float* matrix, const float* x, std::int64_t n, std::int64_t k) {
  for (std::int64_t i = 0; i < n; ++i) into[i] = dot(matrix + i * k, x, k);
}
void add_transposed(float* into, const float* matrix, const float* x, std::int64_t n, std::int64_t k) {
  for (std::int64_t i = 0; i < n; ++i) add(into, matrix + i * k, k, x[i]);
}

float sigmoid(float x) { return 1 / (1 + std::exp(-x)); }

struct NaiveEp {
  NaiveEp(const MoecheckCase& one, const MoecheckHost& callbacks)
      : host(callbacks), T(one.num_tokens), D(one.d_model), F(one.d_ff), E(one.num_experts), K(one.top_k), first_token(one.first_token),
        is_renormalised(one.renormalise != 0) {
    std::int64_t ranks = 1, coordinate = 0;
    for (std::size_t d = 0; d < one.num_mesh_dims; ++d)
      if (std::strcmp(one.mesh_dims[d], "ep") == 0) ranks = one.mesh_sizes[d], coordinate = one.coordinates[d];
    if (E % ranks != 0) throw moecheck::native::Unsupported(std::to_string(E) + " experts cannot be spread evenly over ep=" + std::to_string(ranks));
    e = E / ranks;
    first_expert = coordinate * e;
    declare("forward", "output/y_TD", T * D);
    declare("backward", "grad/scores_TK", T * K);
    declare("backward", "grad/x_TD", T * D);
  }

  // Nothing is sent where there is nothing to send.
  void declare(const char* phase, const char* site, std::int64_t count) const {
    if (count > 0) moecheck::native::must(host, host.declare(&host, phase, "all_reduce", "ep", site, 1, count * std::int64_t{sizeof(float)}));
  }
  template <typename Tensor>
  void tap(const char* name, Tensor& tensor, const char* cuts = nullptr) const {
    const DLTensor view = tensor.view();
    moecheck::native::must(host, host.tap(&host, name, &view, cuts, nullptr));
  }
  void all_reduce(Floats& tensor, const char* site) const {
    DLTensor view = tensor.view();
    moecheck::native::must(host, host.all_reduce_sum(&host, &view, "ep", site));
  }

  void load_parameter(const char* tap_name, Floats& value, Floats* grad, std::vector<std::int64_t> shape, std::int64_t first, const char* cuts) {
    value = Floats(shape);
    if (grad != nullptr) *grad = Floats(shape);
    DLTensor values = value.view(), gradients = grad == nullptr ? DLTensor{} : grad->view();
    moecheck::native::must(host, host.parameter(&host, tap_name, &values, grad == nullptr ? nullptr : &gradients, cuts));
    moecheck::native::must(host, host.weights(&host, tap_name, first, shape[0], &values));
  }

  void load(const char*) {
    load_parameter("param/attention/w_DD", attention_DD, nullptr, {D, D}, 0, nullptr);
    load_parameter("param/router/w_ED", router_ED, &grad_router_ED, {E, D}, 0, nullptr);
    load_parameter("param/experts/gate_up_EGD", gate_up_EGD, &grad_gate_up_EGD, {e, 2 * F, D}, first_expert, "Shard(0) over ep");
    load_parameter("param/experts/down_EDF", down_EDF, &grad_down_EDF, {e, D, F}, first_expert, "Shard(0) over ep");
  }

  void route() {
    logits_TE = probabilities_TE = Floats({T, E});
    scores_TK = Floats({T, K});
    ids_TK = Ints({T, K});
    for (std::int64_t t = 0; t < T; ++t) {
      float *logits = logits_TE.row(t), *p = probabilities_TE.row(t), *scores = scores_TK.row(t), sum = 0, chosen = 0;
      times(logits, router_ED.data.data(), x_TD.row(t), E, D);
      const float largest = *std::max_element(logits, logits + E);
      for (std::int64_t i = 0; i < E; ++i) sum += p[i] = std::exp(logits[i] - largest);
      std::vector<std::int64_t> order(static_cast<std::size_t>(E));
      std::iota(order.begin(), order.end(), 0);
      for (std::int64_t i = 0; i < E; ++i) p[i] /= sum;
      std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return p[a] > p[b]; });
      std::copy_n(order.begin(), K, ids_TK.row(t));
      for (std::int64_t k = 0; k < K; ++k) chosen += scores[k] = p[ids_TK.row(t)[k]];
      for (std::int64_t k = 0; k < K && is_renormalised; ++k) scores[k] /= chosen;
    }
    tap("router/logits_TE", logits_TE);
    tap("router/scores_TK", scores_TK);
    tap("router/ids_TK", ids_TK);
  }

  // Which rows this rank computes: its experts' one after the other, each in the order of tokens.
  void dispatch() {
    Floats local_scores_TK({T, K});
    Ints local_ids_TK({T, K}), counts_e({e});
    std::vector<std::int64_t> keys;
    for (std::int64_t i = 0; i < e; ++i)
      for (std::int64_t t = 0; t < T; ++t)
        for (std::int64_t k = 0; k < K; ++k) {
          const bool is_here = ids_TK.row(t)[k] == first_expert + i;
          if (i == 0) local_ids_TK.row(t)[k] = e;   // lives elsewhere, as far as is known
          if (!is_here) continue;
          local_ids_TK.row(t)[k] = i;
          local_scores_TK.row(t)[k] = scores_TK.row(t)[k];
          ++counts_e.data[static_cast<std::size_t>(i)];
          keys.insert(keys.end(), {first_token + t, k, first_expert + i});
        }
    rows_R3 = Ints({static_cast<std::int64_t>(keys.size()) / 3, 3});
    rows_R3.data = keys;
    tap("dispatch/scores_TK", local_scores_TK);
    tap("dispatch/ids_TK", local_ids_TK);
    tap("dispatch/counts_e", counts_e);
    tap("dispatch/rows_R3", rows_R3);
  }

  void forward(const DLTensor& x, DLTensor& y) {
    x_TD = Floats({T, D});
    std::copy_n(static_cast<const float*>(x.data), T * D, x_TD.data.data());
    route();
    dispatch();
    const std::int64_t R = rows_R3.shape[0];
    in_RD = out_RD = Floats({R, D});
    gate_up_RG = Floats({R, 2 * F});
    act_RF = Floats({R, F});
    Floats partial_TD({T, D});
    for (std::int64_t r = 0; r < R; ++r) {
      const std::int64_t t = rows_R3.row(r)[0] - first_token, k = rows_R3.row(r)[1], i = rows_R3.row(r)[2] - first_expert;
      std::copy_n(x_TD.row(t), D, in_RD.row(r));
      times(gate_up_RG.row(r), gate_up_EGD.row(i), in_RD.row(r), 2 * F, D);
      const float* gate = gate_up_RG.row(r);
      for (std::int64_t f = 0; f < F; ++f) act_RF.row(r)[f] = gate[f] * sigmoid(gate[f]) * gate[F + f];
      times(out_RD.row(r), down_EDF.row(i), act_RF.row(r), D, F);
      add(partial_TD.row(t), out_RD.row(r), D, scores_TK.row(t)[k]);
    }
    tap("experts/in_RD", in_RD);
    tap("experts/gate_up_RG", gate_up_RG);
    tap("experts/act_RF", act_RF);
    tap("experts/out_RD", out_RD);
    tap("combine/partial_TD", partial_TD, "Partial over ep");
    all_reduce(partial_TD, "output/y_TD");
    std::copy_n(partial_TD.data.data(), T * D, static_cast<float*>(y.data));
  }

  // Gradients of the rows, by the chain rule from the last stage to the first.
  void backward(const DLTensor& grad_y_TD, DLTensor& grad_x) {
    const float* grad_y = static_cast<const float*>(grad_y_TD.data);
    const std::int64_t R = rows_R3.shape[0];
    Floats grad_out_RD({R, D}), grad_act_RF({R, F}), grad_gate_up_RG({R, 2 * F}), grad_in_RD({R, D}), grad_scores_TK({T, K}), grad_x_TD({T, D});
    for (std::int64_t r = 0; r < R; ++r) {
      const std::int64_t t = rows_R3.row(r)[0] - first_token, k = rows_R3.row(r)[1], i = rows_R3.row(r)[2] - first_expert;
      grad_scores_TK.row(t)[k] = dot(out_RD.row(r), grad_y + t * D, D);
      add(grad_out_RD.row(r), grad_y + t * D, D, scores_TK.row(t)[k]);
      add_transposed(grad_act_RF.row(r), down_EDF.row(i), grad_out_RD.row(r), D, F);
      const float *gate = gate_up_RG.row(r), *grad_act = grad_act_RF.row(r);
      for (std::int64_t f = 0; f < F; ++f) {
        const float s = sigmoid(gate[f]);
        grad_gate_up_RG.row(r)[f] = grad_act[f] * gate[F + f] * s * (1 + gate[f] * (1 - s));
        grad_gate_up_RG.row(r)[F + f] = grad_act[f] * gate[f] * s;
      }
      add_transposed(grad_in_RD.row(r), gate_up_EGD.row(i), grad_gate_up_RG.row(r), 2 * F, D);
      add(grad_x_TD.row(t), grad_in_RD.row(r), D);
      for (std::int64_t d = 0; d < D; ++d) add(grad_down_EDF.row(i) + d * F, act_RF.row(r), F, grad_out_RD.row(r)[d]);
      for (std::int64_t g = 0; g < 2 * F; ++g) add(grad_gate_up_EGD.row(i) + g * D, in_RD.row(r), D, grad_gate_up_RG.row(r)[g]);
    }
    tap("grad/out_RD", grad_out_RD);
    tap("grad/act_RF", grad_act_RF);
    tap("grad/gate_up_RG", grad_gate_up_RG);
    tap("grad/in_RD", grad_in_RD);
    // Each rank has what its own experts make of the replicated tokens and scores.
    all_reduce(grad_scores_TK, "grad/scores_TK");
    all_reduce(grad_x_TD, "grad/x_TD");
    tap("grad/scores_TK", grad_scores_TK);
    backward_of_router(grad_scores_TK, grad_x_TD);
    std::copy_n(grad_x_TD.data.data(), T * D, static_cast<float*>(grad_x.data));
  }

  void backward_of_router(const Floats& grad_scores_TK, Floats& grad_x_TD) {
    Floats grad_logits_TE({T, E});
    for (std::int64_t t = 0; t < T; ++t) {
      const float *p = probabilities_TE.row(t), *scores = scores_TK.row(t), *grad_scores = grad_scores_TK.row(t);
      const std::int64_t* ids = ids_TK.row(t);
      std::vector<float> grad_p(static_cast<std::size_t>(E));
      float chosen = 0;
      for (std::int64_t k = 0; k < K; ++k) chosen += p[ids[k]];
      const float mean = is_renormalised ? dot(scores, grad_scores, K) : 0;
      for (std::int64_t k = 0; k < K; ++k)
        grad_p[static_cast<std::size_t>(ids[k])] = is_renormalised ? (grad_scores[k] - mean) / chosen : grad_scores[k];
      const float sum = dot(p, grad_p.data(), E);
      for (std::int64_t i = 0; i < E; ++i) grad_logits_TE.row(t)[i] = p[i] * (grad_p[static_cast<std::size_t>(i)] - sum);
      for (std::int64_t i = 0; i < E; ++i) add(grad_router_ED.row(i), x_TD.row(t), D, grad_logits_TE.row(t)[i]);
      add_transposed(grad_x_TD.row(t), router_ED.data.data(), grad_logits_TE.row(t), E, D);
    }
    tap("grad/logits_TE", grad_logits_TE);
  }

  const MoecheckHost& host;
  std::int64_t T, D, F, E, K, first_token;   // as in the names of tensors
  bool is_renormalised;
  std::int64_t e = 0, first_expert = 0;      // experts of this rank
  Floats attention_DD, router_ED, gate_up_EGD, down_EDF, grad_router_ED, grad_gate_up_EGD, grad_down_EDF;
  // Of the last forward.
  Floats x_TD, logits_TE, probabilities_TE, scores_TK, in_RD, gate_up_RG, act_RF, out_RD;
  Ints ids_TK, rows_R3;
};

const char* describe() {
  return R"({"name": "naive_ep", "version": "1", "implementations": [{"name": "naive_ep", "summary": "tokens replicated over ep, all-reduce",
             "mesh_dims": ["ep"], "experts_backends": ["eager"]}],
             "dtypes": ["fp32"], "phases": ["load", "forward", "backward", "step", "save"]})";
}

}  // namespace

extern "C" const MoecheckPlugin* moecheck_plugin() {
  static const MoecheckPlugin plugin = moecheck::native::plugin_of<NaiveEp>(describe);
  return &plugin;
}
