// May a set of experts be the top-k of logits that are known within bounds only?
#pragma once

#include <vector>

#include "harness/base/host_tensor.h"
#include "harness/model/model_spec.h"

namespace moecheck::check {

using model::Dim;

// Logits of one token with what each may be off by.
struct TokenLogits {
  std::vector<double> value;
  std::vector<double> bound;
};

struct Certificate {
  bool is_admissible = true;
  bool is_tied = false;     // the K-th choice and the best other one are equal
  bool is_finite = true;
  Dim chosen = -1;          // the weakest chosen expert
  Dim better = -1;          // the strongest other one
};

// Admissible: min over the chosen of value + bound >= max over the others of value - bound. Exact, since a set is a top-k if
// and only if no other expert beats a chosen one. Requires: `chosen` are different experts of 0..E-1.
Certificate certify(const TokenLogits& logits, const std::vector<Dim>& chosen);

// What the family's top-k is taken of: logits themselves; as far as their softmax in fp32 can tell them apart; or their sigmoids in fp32,
// which are all 1 far out.
TokenLogits as_choice_sees(const model::ModelSpec& model, TokenLogits logits);

// The experts of one token, sorted by id. Requires: integers (T, K).
std::vector<Dim> chosen_of(const base::HostTensor& ids_TK, Dim token);

// Sorted by id. Ties: the lower id wins.
std::vector<Dim> top_k_of(const std::vector<double>& logits, std::size_t top_k);

}  // namespace moecheck::check
