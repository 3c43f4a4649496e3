#include "parallel_impls/comm/autograd_collectives.h"

#include <torch/csrc/autograd/custom_function.h>

namespace moecheck::parallel_impls {
namespace {

namespace ag = torch::autograd;

// A tensor's way through a group, there and back; travels through autograd as an opaque value.
struct Way : torch::CustomClassHolder {
  std::function<at::Tensor(const at::Tensor&)> there;
  std::function<at::Tensor(const at::Tensor&)> back;
};

struct Travel : ag::Function<Travel> {
  static at::Tensor forward(ag::AutogradContext* context, const at::Tensor& tensor, const c10::intrusive_ptr<Way>& way) {
    context->saved_data["way"] = c10::IValue::make_capsule(way);
    return way->there(tensor);
  }
  static ag::variable_list backward(ag::AutogradContext* context, const ag::variable_list& gradients) {
    const auto way = c10::static_intrusive_pointer_cast<Way>(context->saved_data["way"].toCapsule());
    return {way->back(gradients[0].contiguous()), at::Tensor()};
  }
};

using Map = std::function<at::Tensor(const at::Tensor&)>;

at::Tensor travel(const at::Tensor& tensor, Map there, Map back) {
  auto way = c10::make_intrusive<Way>();
  way->there = std::move(there);
  way->back = std::move(back);
  return Travel::apply(tensor, way);
}

at::Tensor copied(const at::Tensor& tensor) { return tensor.clone(); }

Map summed(const Meeting& where, const std::string& site) {
  return [where, site](const at::Tensor& tensor) {
    at::Tensor sum = tensor.contiguous().clone();
    where.comm->all_reduce_sum(sum, where.dims, site);
    return sum;
  };
}

Map gathered(const Meeting& where, const Rows& rows, const std::string& site) {
  return [where, rows, site](const at::Tensor& tensor) { return where.comm->all_gather(tensor.contiguous(), rows, where.dims, site).clone(); };
}

Map scattered(const Meeting& where, const Rows& rows, const std::string& site) {
  return [where, rows, site](const at::Tensor& tensor) { return where.comm->reduce_scatter_sum(tensor.contiguous(), rows, where.dims, site).clone(); };
}

Map exchanged(const Meeting& where, const Rows& send, const Rows& receive, const std::string& site) {
  return [where, send, receive, site](const at::Tensor& rows) { return where.comm->all_to_all(rows, send, receive, where.dims, site).clone(); };
}

}  // namespace

at::Tensor copy_to_group(const at::Tensor& tensor, const Meeting& where) { return travel(tensor, copied, summed(where, where.backward_site)); }

at::Tensor reduce_from_group(const at::Tensor& tensor, const Meeting& where) { return travel(tensor, summed(where, where.site), copied); }

at::Tensor gather_from_group(const at::Tensor& tensor, const Rows& rows, const Meeting& where) {
  return travel(tensor, gathered(where, rows, where.site), scattered(where, rows, where.backward_site));
}

at::Tensor reduce_scatter_to_group(const at::Tensor& tensor, const Rows& rows, const Meeting& where) {
  return travel(tensor, scattered(where, rows, where.site), gathered(where, rows, where.backward_site));
}

at::Tensor exchange(const at::Tensor& rows, const Rows& send, const Rows& receive, const Meeting& where) {
  return travel(rows, exchanged(where, send, receive, where.site), exchanged(where, receive, send, where.backward_site));
}

}  // namespace moecheck::parallel_impls
