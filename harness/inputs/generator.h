// Every weight and token as a pure function of (seed, tensor, global index): any rank, the reference and a Python subject
// make the same bytes, any slice alone.
//
// normal: Philox4x32-10 with key = seed and counter = (block, FNV-1a-64 of the tensor's name). A block's four words are
//   eight 16-bit uniforms; element 2b takes those of words 0 and 1, element 2b+1 those of words 2 and 3 (low half first);
//   n = their sum - 131070, value = round_dtype(float(double(n) * (scale / sqrt((2^32 - 1) / 3)))): Irwin-Hall of 4,
//   nearly normal, range +-3.46 scale, with no libm in it.
// exact: every product and partial sum of the layer is representable in bf16, so all orders agree bit for bit:
//   router 64 at (e, e); tokens +1 or -1 in column e (chosen or not; with sigmoid scores 0 or -1), 1 in the last column, else -1, 0 or 1;
//   gate 64 or 128 in the last column only, where silu(g) rounds to g, in fp64 too; up 3 entries +-1 a row;
//   down 4 entries +-1 a row.
// provenance: an expert's weights are all (e+1) / 2^10 (gate), 2^11 (up), 2^9 (down); a token's columns from E on (t+1) / 2^6.
//   Names up to 256 experts and tokens in bf16.
// Tensor names: "router" (E,D), "gate_up" (E,G,D), "down" (E,D,F), "attention" (D,D), "tokens" and "output_grad" (T global,D).
// output_grad is normal with scale 1, whatever the values are; in exact mode -1, 0 or 1.
#pragma once

#include <span>
#include <vector>

#include "harness/base/host_tensor.h"
#include "harness/model/problem.h"

namespace moecheck::inputs {

class Generator {
 public:
  explicit Generator(const model::Problem& problem);

  // Rows, rounded to the problem's dtype. `token` is a global index; `row` of gate_up is 0..G-1, gates first.
  void router_row(model::Dim expert, std::span<float> out_D) const;
  void gate_up_row(model::Dim expert, model::Dim row, std::span<float> out_D) const;
  void down_row(model::Dim expert, model::Dim row, std::span<float> out_F) const;
  void attention_row(model::Dim row, std::span<float> out_D) const;
  void token_row(model::Dim token, std::span<float> out_D) const;
  // What the loss gives to the output: loss = sum of output * this, a plain sum over all tokens.
  void output_grad_row(model::Dim token, std::span<float> out_D) const;

  // Consecutive rows from `first_row` on, as many as `out` has room for; the same bytes as row by row, faster.
  void gate_up_rows(model::Dim expert, model::Dim first_row, std::span<float> out) const;
  void down_rows(model::Dim expert, model::Dim first_row, std::span<float> out) const;

  // Whole tensors in the problem's dtype.
  base::HostTensor router_ED() const;
  base::HostTensor attention_DD() const;
  base::HostTensor gate_FD(model::Dim expert) const;
  base::HostTensor up_FD(model::Dim expert) const;
  base::HostTensor down_DF(model::Dim expert) const;
  // Of the token shard of `rank`. Batch b (of several steps or microbatches) has the tokens b * total_tokens and on.
  base::HostTensor tokens_TD(model::Dim rank, model::Dim batch = 0) const;
  base::HostTensor output_grad_TD(model::Dim rank, model::Dim batch = 0) const;

  const model::Problem& problem() const { return problem_; }

 private:
  model::Problem problem_;
};

// Routing is *designed* (written into tokens and router) unless it is natural and the values are normal.
bool is_designed(const model::Problem& problem);

// The K experts that designed routing wants for a token, in order of preference; with ties the K-th is tied with `tied`.
struct WantedExperts {
  std::vector<model::Dim> chosen;
  model::Dim tied = -1;
};
WantedExperts wanted_experts(const model::Problem& problem, model::Dim token);

}  // namespace moecheck::inputs
