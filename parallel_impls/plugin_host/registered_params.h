// The parameters that a plug-in registered: views of its memory, placed as its cuts say.
#pragma once

#include <map>
#include <string>

#include "parallel_impls/layer/sharding.h"

namespace moecheck::parallel_impls {

// "Shard(0) over ep; StridedShard(1,2) over tp". Errors: std::invalid_argument.
std::vector<model::Cut> parse_cuts(std::string_view text);

// The global shape of a tensor of which this is one of equal pieces.
base::Shape global_shape_of(base::Shape local, const std::vector<model::Cut>& cuts, const model::Mesh& mesh);

class RegisteredParams {
 public:
  explicit RegisteredParams(const LayerContext& context) : problem_(context.one.problem), rank_(context.comm->rank()) {}

  // grad: undefined if the plug-in shows none. Errors: std::invalid_argument for a name, a shape or cuts that fit no parameter.
  void add(const std::string& tap, const at::Tensor& value, const at::Tensor& grad, std::vector<model::Cut> cuts);

  bool has(const ParamInfo& param) const { return (values_.*param.member).defined(); }
  bool has_gradient(const ParamInfo& param) const { return (gradients_.*param.member).defined(); }

  // Sharing the plug-in's memory.
  const LayerParams& values() const { return values_; }
  const LayerParams& gradients() const { return gradients_; }
  // Of those that are registered; kept is there for these only.
  const Sharding& sharding() const { return sharding_; }
  std::vector<PlacedTensor> placed(std::string_view prefix, const LayerParams& tensors) const;

 private:
  const model::Problem& problem_;
  model::Dim rank_;
  LayerParams values_;
  LayerParams gradients_;
  Sharding sharding_;
};

}  // namespace moecheck::parallel_impls
