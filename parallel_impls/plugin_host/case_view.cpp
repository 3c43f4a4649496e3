#include "parallel_impls/plugin_host/case_view.h"

#include "harness/subject/protocol.h"
#include "parallel_impls/layer/tensor_bridge.h"
#include "parallel_impls/plugin_host/dlpack_tensor.h"

namespace moecheck::parallel_impls {
namespace {

std::vector<const char*> texts_of(const std::vector<std::string>& strings) {
  std::vector<const char*> texts;
  for (const std::string& one : strings) texts.push_back(one.c_str());
  return texts;
}

std::string json_of(const cases::Case& one) {
  const base::Json whole = subject::to_json(subject::OpenRequest{one, {}, {}, {}});
  return base::Json{{"config", whole.at("config")}, {"model", whole.at("model")}}.dump();
}

}  // namespace

CaseView::CaseView(const LayerContext& context)
    : implementation_(context.one.impl), experts_backend_(context.one.experts_backend), json_(json_of(context.one)) {
  const model::Problem& problem = context.one.problem;
  view_.struct_size = sizeof view_;
  view_.abi_version = MOECHECK_PLUGIN_ABI_VERSION;
  view_.implementation = implementation_.c_str();
  view_.experts_backend = experts_backend_.c_str();
  view_.json = json_.c_str();
  view_.rank = context.comm->rank();
  view_.local_rank = context.local_rank;
  view_.world_size = problem.mesh.world_size();
  view_.num_experts = problem.model.num_experts;
  view_.top_k = problem.model.top_k;
  view_.d_model = problem.model.d_model;
  view_.d_ff = problem.model.d_ff;
  view_.renormalise = problem.model.renormalise ? 1 : 0;
  view_.has_backward = context.one.has_phase("backward") ? 1 : 0;
  view_.dtype = to_dlpack(to_torch(problem.dtype));
  view_.num_tokens = problem.num_tokens(view_.rank);
  view_.first_token = problem.first_token(view_.rank);
  add_mesh(context);
  add_knobs(context.one);
}

void CaseView::add_mesh(const LayerContext& context) {
  for (const model::MeshDim& dim : context.one.problem.mesh.dims()) {
    dims_.push_back(dim.name);
    sizes_.push_back(dim.size);
    coordinates_.push_back(context.comm->coordinate(dim.name));
  }
  dim_texts_ = texts_of(dims_);
  view_.num_mesh_dims = dims_.size();
  view_.mesh_dims = dim_texts_.data();
  view_.mesh_sizes = sizes_.data();
  view_.coordinates = coordinates_.data();
}

void CaseView::add_knobs(const cases::Case& one) {
  for (const auto& [knob, value] : cases::config_of(one)) {
    knobs_.push_back(knob);
    values_.push_back(value);
  }
  knob_texts_ = texts_of(knobs_);
  value_texts_ = texts_of(values_);
  view_.num_knobs = knobs_.size();
  view_.knob_names = knob_texts_.data();
  view_.knob_values = value_texts_.data();
}

}  // namespace moecheck::parallel_impls
