#include "parallel_impls/comm/autograd_collectives.h"

#include <torch/csrc/autograd/custom_function.h>

namespace moecheck::parallel_impls {
namespace {

namespace ag = torch::autograd;

// What a backward needs to know; travels through autograd as an opaque value.
struct CollectiveSite : torch::CustomClassHolder {
  std::shared_ptr<Communicator> comm;
  std::string dim;
  std::string site;
};

at::Tensor summed(const at::Tensor& tensor, const CollectiveSite& where) {
  at::Tensor sum = tensor.clone();
  where.comm->all_reduce_sum(sum, where.dim, where.site);
  return sum;
}

struct CopyToGroup : ag::Function<CopyToGroup> {
  static at::Tensor forward(ag::AutogradContext* context, const at::Tensor& tensor, const c10::intrusive_ptr<CollectiveSite>& where) {
    context->saved_data["where"] = c10::IValue::make_capsule(where);
    return tensor.clone();
  }
  static ag::variable_list backward(ag::AutogradContext* context, const ag::variable_list& gradients) {
    const auto where = c10::static_intrusive_pointer_cast<CollectiveSite>(context->saved_data["where"].toCapsule());
    return {summed(gradients[0], *where), at::Tensor()};
  }
};

struct ReduceFromGroup : ag::Function<ReduceFromGroup> {
  static at::Tensor forward(ag::AutogradContext*, const at::Tensor& tensor, const c10::intrusive_ptr<CollectiveSite>& where) {
    return summed(tensor, *where);
  }
  static ag::variable_list backward(ag::AutogradContext*, const ag::variable_list& gradients) { return {gradients[0], at::Tensor()}; }
};

c10::intrusive_ptr<CollectiveSite> site_of(std::shared_ptr<Communicator> comm, const std::string& dim, const std::string& site) {
  auto where = c10::make_intrusive<CollectiveSite>();
  where->comm = std::move(comm);
  where->dim = dim;
  where->site = site;
  return where;
}

}  // namespace

at::Tensor copy_to_group(const at::Tensor& tensor, std::shared_ptr<Communicator> comm, const std::string& dim, const std::string& site) {
  return CopyToGroup::apply(tensor, site_of(std::move(comm), dim, site));
}

at::Tensor reduce_from_group(const at::Tensor& tensor, std::shared_ptr<Communicator> comm, const std::string& dim, const std::string& site) {
  return ReduceFromGroup::apply(tensor, site_of(std::move(comm), dim, site));
}

}  // namespace moecheck::parallel_impls
