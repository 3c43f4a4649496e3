// A layer with LibTorch and its autograd: all experts on every rank, tokens sharded over dp, gradients all-reduced. Shows the router and
// the output, no interior.
#include <vector>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <moecheck_plugin.hpp>

namespace {

at::Tensor tensor_of(const DLTensor& view, at::ScalarType type) {
  return at::from_blob(view.data, at::IntArrayRef(view.shape, static_cast<std::size_t>(view.ndim)), type);
}

// What the host is shown of a dense tensor, as long as that lives.
struct View {
  explicit View(const at::Tensor& tensor) : dense(tensor.detach().contiguous()), shape(dense.sizes().vec()) {
    const bool is_int = dense.scalar_type() == at::kLong;
    const auto code = static_cast<std::uint8_t>(is_int ? kDLInt : dense.scalar_type() == at::kBFloat16 ? kDLBfloat : kDLFloat);
    const auto bits = static_cast<std::uint8_t>(8 * dense.element_size());
    dl = {dense.data_ptr(), {kDLCPU, 0}, static_cast<std::int32_t>(shape.size()), {code, bits, 1}, shape.data(), nullptr, 0};
  }
  DLTensor* get() { return &dl; }

  at::Tensor dense;
  std::vector<std::int64_t> shape;
  DLTensor dl{};
};

struct TorchDense {
  TorchDense(const MoecheckCase& of, const MoecheckHost& callbacks)
      : one(of), host(callbacks), type(of.dtype.code == kDLBfloat ? at::kBFloat16 : at::kFloat) {}

  void tap(const char* name, const at::Tensor& tensor) const {
    moecheck::native::must(host, host.tap(&host, name, View(tensor).get(), nullptr, nullptr));
  }

  // The leaf of autograd shares its memory with what is registered, and so do its gradients.
  void load_parameter(const char* name, at::IntArrayRef shape, at::Tensor& value, at::Tensor* gradient) {
    value = at::empty(shape, type);
    View values(value);
    if (gradient == nullptr) {
      moecheck::native::must(host, host.parameter(&host, name, values.get(), nullptr, nullptr));
    } else {
      *gradient = at::zeros(shape, type);
      moecheck::native::must(host, host.parameter(&host, name, values.get(), View(*gradient).get(), nullptr));
      value.set_requires_grad(true);
      value.mutable_grad() = *gradient;
    }
    moecheck::native::must(host, host.weights(&host, name, 0, shape[0], values.get()));
  }

  void load(const char*) {
    load_parameter("param/attention/w_DD", {one.d_model, one.d_model}, attention_DD, nullptr);
    load_parameter("param/router/w_ED", {one.num_experts, one.d_model}, router_ED, &grad_router_ED);
    load_parameter("param/experts/gate_up_EGD", {one.num_experts, 2 * one.d_ff, one.d_model}, gate_up_EGD, &grad_gate_up_EGD);
    load_parameter("param/experts/down_EDF", {one.num_experts, one.d_model, one.d_ff}, down_EDF, &grad_down_EDF);
  }

  at::Tensor expert(const at::Tensor& in_RD, std::int64_t e) const {
    const at::Tensor gate_up_RG = at::linear(in_RD, gate_up_EGD[e]);
    return at::linear(at::silu(gate_up_RG.slice(1, 0, one.d_ff)) * gate_up_RG.slice(1, one.d_ff), down_EDF[e]);
  }

  void forward(const DLTensor& x, DLTensor& y) {
    const c10::AutoGradMode grad_mode(one.has_backward != 0);
    x_TD = tensor_of(x, type).clone().set_requires_grad(one.has_backward != 0);
    logits_TE = at::linear(x_TD, router_ED);
    const auto [probabilities_TK, ids_TK] = at::topk(at::softmax(logits_TE, -1, at::kFloat), one.top_k);
    scores_TK = (one.renormalise != 0 ? probabilities_TK / probabilities_TK.sum(-1, true) : probabilities_TK).to(type);
    tap("router/logits_TE", logits_TE);
    tap("router/scores_TK", scores_TK);
    tap("router/ids_TK", ids_TK);
    y_TD = at::zeros_like(x_TD);
    for (std::int64_t e = 0; e < one.num_experts; ++e) {
      const at::Tensor slot_R2 = ids_TK.eq(e).nonzero(), token_R = slot_R2.select(1, 0);
      const at::Tensor score_R1 = scores_TK.index({token_R, slot_R2.select(1, 1)}).unsqueeze(1);
      y_TD = y_TD.index_add(0, token_R, expert(x_TD.index_select(0, token_R), e) * score_R1);
    }
    if (one.has_backward != 0) logits_TE.retain_grad(), scores_TK.retain_grad();
    tensor_of(y, type).copy_(y_TD.detach());
  }

  void backward(const DLTensor& grad_y, DLTensor& grad_x) {
    y_TD.backward(tensor_of(grad_y, type));
    for (const auto& [gradient, name] : {std::pair{grad_router_ED, "grad/router/w_ED"}, std::pair{grad_gate_up_EGD, "grad/experts/gate_up_EGD"},
                                         std::pair{grad_down_EDF, "grad/experts/down_EDF"}})
      moecheck::native::must(host, host.all_reduce_sum(&host, View(gradient).get(), "dp", name));
    if (scores_TK.grad().defined()) tap("grad/scores_TK", scores_TK.grad());
    if (logits_TE.grad().defined()) tap("grad/logits_TE", logits_TE.grad());
    tensor_of(grad_x, type).copy_(x_TD.grad());
  }

  const MoecheckCase& one;
  const MoecheckHost& host;
  at::ScalarType type;
  at::Tensor attention_DD, router_ED, gate_up_EGD, down_EDF, grad_router_ED, grad_gate_up_EGD, grad_down_EDF;
  at::Tensor x_TD, logits_TE, scores_TK, y_TD;   // of the last forward
};

const char* describe() {
  return R"({"name": "torch_dense", "version": "1", "implementations": [{"name": "torch_dense", "summary": "all experts on every rank, LibTorch",
             "mesh_dims": ["dp"], "experts_backends": ["eager"]}],
             "dtypes": ["fp32", "bf16"], "phases": ["load", "forward", "backward", "step", "save"]})";
}

}  // namespace

extern "C" const MoecheckPlugin* moecheck_plugin() {
  static const MoecheckPlugin plugin = moecheck::native::plugin_of<TorchDense>(describe);
  return &plugin;
}
