#include "parallel_impls/plugin_host/host_callbacks.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "harness/base/nearest_name.h"
#include "harness/inputs/generator.h"
#include "harness/trace/layout.h"
#include "harness/trace/tap_points.h"
#include "parallel_impls/plugin_host/dlpack_tensor.h"

namespace moecheck::parallel_impls {
namespace {

using model::Dim;

std::string text_of(const char* text, const char* what) {
  if (text == nullptr) throw std::invalid_argument(fmt::format("the {} is NULL", what));
  return text;
}

const trace::TapPoint& find_tap(const std::string& name) {
  if (const trace::TapPoint* found = trace::find_tap(name)) return *found;
  std::vector<std::string> known;
  for (const trace::TapPoint& tap : trace::tap_points()) known.emplace_back(tap.name);
  throw std::invalid_argument(fmt::format("there is no tap '{}'{}", name, base::suggestion(name, known)));
}

// Errors: std::invalid_argument. Nothing is cast or broadcast to fit.
void put(const at::Tensor& result, at::Tensor into) {
  if (result.sizes() != into.sizes() || result.scalar_type() != into.scalar_type())
    throw std::invalid_argument(fmt::format("the result is {} of shape {}, the tensor to hold it {} of shape {}", c10::toString(result.scalar_type()),
                                            base::shape_text(result.sizes().vec()), c10::toString(into.scalar_type()),
                                            base::shape_text(into.sizes().vec())));
  into.copy_(result);
}

void require_dims(const std::string& dims, const model::Mesh& mesh) {
  constexpr std::array<std::string_view, 4> kNames = {"dp", "fsdp", "ep", "tp"};
  for (std::string_view rest = dims; !rest.empty();) {
    const std::string_view dim = rest.substr(0, rest.find(','));
    if (!mesh.has(dim) && std::ranges::find(kNames, dim) == kNames.end())
      throw std::invalid_argument(fmt::format("there is no mesh dimension '{}'", dim));
    rest.remove_prefix(std::min(dim.size() + 1, rest.size()));
  }
}

// Rows first .. first + count - 1 of dim 0, in fp32.
at::Tensor generated(const model::Problem& problem, const std::string& tap, const base::Shape& shape, Dim first) {
  const inputs::Generator generator(problem);
  at::Tensor values = at::empty(shape, at::kFloat);
  const auto row_size = static_cast<std::size_t>(shape[0] == 0 ? 0 : values.numel() / shape[0]);
  for (Dim row = 0; row < shape[0]; ++row) {
    const std::span<float> out(values.data_ptr<float>() + static_cast<std::size_t>(row) * row_size, row_size);
    const Dim index = first + row;
    if (tap == "param/router/w_ED") generator.router_row(index, out);
    if (tap == "param/attention/w_DD") generator.attention_row(index, out);
    if (tap == "param/experts/gate_up_EGD") generator.gate_up_rows(index, 0, out);
    if (tap == "param/experts/down_EDF") generator.down_rows(index, 0, out);
  }
  return values;
}

}  // namespace

void HostCallbacks::begin(const std::string& phase, Tapper* tapper) {
  phase_ = phase;
  tapper_ = tapper;
  first_failure_.clear();
  shown_.clear();
  ids_TK_ = at::Tensor();
}

std::string HostCallbacks::end() {
  phase_.clear();
  tapper_ = nullptr;
  return first_failure_;
}

std::vector<trace::DeclaredCollective> HostCallbacks::declared(std::string_view phase) const {
  const auto found = declared_.find(phase);
  return found == declared_.end() ? std::vector<trace::DeclaredCollective>{} : found->second;
}

template <typename Work>
MoecheckStatus HostCallbacks::guarded(const char* callback, Work work) noexcept {
  try {
    if (phase_.empty()) throw std::logic_error("it is called outside of a call from the host");
    work();
    return MOECHECK_OK;
  } catch (const c10::Error& e) {
    message_ = fmt::format("{}: {}", callback, e.what_without_backtrace());
  } catch (const std::exception& e) {
    message_ = fmt::format("{}: {}", callback, e.what());
  }
  if (first_failure_.empty()) first_failure_ = message_;
  return MOECHECK_ERROR;
}

void HostCallbacks::weights(const char* tap, std::int64_t first, std::int64_t count, DLTensor* into) const {
  const std::string name = text_of(tap, "tap");
  const bool is_param = std::ranges::any_of(kAllParams, [&](const ParamInfo& param) { return tap_of("param", param) == name; });
  if (!is_param) throw std::invalid_argument(fmt::format("'{}' is no weight", name));
  base::Shape shape = trace::global_param_shape(one_.problem.model, name);
  if (first < 0 || count < 0 || first > shape[0] - count)
    throw std::invalid_argument(fmt::format("'{}' has {} rows; there are no {} from {} on", name, shape[0], count, first));
  shape[0] = count;
  const at::Tensor view = borrowed(into);
  if (!view.is_floating_point()) throw std::invalid_argument("weights are floating point numbers");
  put(generated(one_.problem, name, shape, first).to(view.scalar_type()), view);
}

void HostCallbacks::parameter(const char* tap, const DLTensor* value, const DLTensor* grad, const char* cuts) {
  if (phase_ != "load") throw std::logic_error("parameters are registered in load");
  params_.add(text_of(tap, "tap"), borrowed(value), grad == nullptr ? at::Tensor() : borrowed(grad), parse_cuts(cuts == nullptr ? "" : cuts));
}

void HostCallbacks::tap(const char* name, const DLTensor* tensor, const char* cuts, const std::int64_t* global_shape) {
  if (tapper_ == nullptr) throw std::logic_error("nothing can be shown in open");
  const std::string text = text_of(name, "name");
  find_tap(text);
  const at::Tensor view = borrowed(tensor);
  std::vector<model::Cut> lies = parse_cuts(cuts == nullptr ? "" : cuts);
  base::Shape whole = view.sizes().vec();
  if (global_shape != nullptr) {
    whole.assign(global_shape, global_shape + view.dim());
  } else {
    whole = global_shape_of(whole, lies, one_.problem.mesh);
  }
  tapper_->tap_placed(text, view, std::move(lies), std::move(whole));
  shown_.insert(text);
  if (text == "router/ids_TK" && !view.is_floating_point()) ids_TK_ = view.to(at::kLong, /*non_blocking=*/false, /*copy=*/true);
}

void HostCallbacks::set_experts_backend(const char* name) { experts_backend_ = text_of(name, "name"); }

void HostCallbacks::declare(const char* phase, trace::DeclaredCollective what) {
  constexpr std::array<std::string_view, 4> kPhases = {"load", "forward", "backward", "step"};
  constexpr std::array<std::string_view, 5> kKinds = {"all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast"};
  const std::string text = text_of(phase, "phase");
  if (std::ranges::find(kPhases, text) == kPhases.end())
    throw std::invalid_argument(fmt::format("there is no phase '{}' to declare a collective for", text));
  if (std::ranges::find(kKinds, what.kind) == kKinds.end()) throw std::invalid_argument(fmt::format("there is no collective '{}'", what.kind));
  require_dims(what.group, one_.problem.mesh);
  what.group = group_name(one_.problem.mesh, what.group);
  if (!what.group.empty()) declared_[text].push_back(std::move(what));
}

void HostCallbacks::all_reduce_sum(DLTensor* tensor, const char* dims, const char* site) {
  at::Tensor view = borrowed(tensor), sum = view.contiguous();
  const std::string over = text_of(dims, "text of dims");
  require_dims(over, one_.problem.mesh);
  comm_->all_reduce_sum(sum, over, text_of(site, "site"));
  if (!sum.is_same(view)) view.copy_(sum);
}

void HostCallbacks::broadcast(DLTensor* tensor, std::int64_t source, const char* dims, const char* site) {
  at::Tensor view = borrowed(tensor), sent = view.contiguous();
  const std::string over = text_of(dims, "text of dims");
  require_dims(over, one_.problem.mesh);
  if (source < 0 || source >= one_.problem.mesh.size(over)) throw std::invalid_argument(fmt::format("there is no rank {} in {}", source, over));
  comm_->broadcast(sent, source, over, text_of(site, "site"));
  if (!sent.is_same(view)) view.copy_(sent);
}

// whole: what the rows are of, or nullptr.
Rows HostCallbacks::rows_of(const std::int64_t* rows, const char* dims, const at::Tensor* whole) const {
  const std::string over = text_of(dims, "text of dims");
  require_dims(over, one_.problem.mesh);
  if (rows == nullptr) throw std::invalid_argument("the list of rows is NULL");
  Rows all(rows, rows + one_.problem.mesh.size(over));
  if (std::ranges::any_of(all, [](std::int64_t count) { return count < 0; })) throw std::invalid_argument("a number of rows is negative");
  if (whole != nullptr && whole->dim() == 0) throw std::invalid_argument("a number has no rows");
  const std::int64_t sum = std::accumulate(all.begin(), all.end(), std::int64_t{0});
  if (whole != nullptr && whole->size(0) != sum)
    throw std::invalid_argument(fmt::format("the rows of all ranks are {}, the tensor has {}", sum, whole->size(0)));
  return all;
}

void HostCallbacks::all_gather(const DLTensor* local, const std::int64_t* rows, DLTensor* into, const char* dims, const char* site) {
  const at::Tensor mine = borrowed(local).contiguous(), all = borrowed(into);
  const Rows counts = rows_of(rows, dims, &all);
  const std::int64_t own = counts[static_cast<std::size_t>(comm_->coordinate(dims))];
  if (mine.dim() == 0 || mine.size(0) != own)
    throw std::invalid_argument(fmt::format("this rank's rows are said to be {}, its tensor is {}", own, base::shape_text(mine.sizes().vec())));
  put(comm_->all_gather(mine, counts, dims, text_of(site, "site")), all);
}

void HostCallbacks::reduce_scatter_sum(const DLTensor* whole, const std::int64_t* rows, DLTensor* into, const char* dims, const char* site) {
  const at::Tensor summands = borrowed(whole).contiguous(), mine = borrowed(into);
  const Rows counts = rows_of(rows, dims, &summands);
  put(comm_->reduce_scatter_sum(summands, counts, dims, text_of(site, "site")), mine);
}

void HostCallbacks::all_to_all(const DLTensor* rows, const std::int64_t* send, const std::int64_t* receive, DLTensor* into, const char* dims,
                               const char* site) {
  const at::Tensor mine = borrowed(rows).contiguous(), received = borrowed(into);
  const Rows sent = rows_of(send, dims, &mine), expected = rows_of(receive, dims, &received);
  put(comm_->all_to_all(mine, sent, expected, dims, text_of(site, "site")), received);
}

void HostCallbacks::barrier(const char* dims, const char* site) {
  const std::string over = text_of(dims, "text of dims");
  require_dims(over, one_.problem.mesh);
  at::Tensor one = at::ones({1}, at::kLong);
  comm_->all_reduce_sum(one, over, text_of(site, "site"));
}

namespace {

HostCallbacks& self(const MoecheckHost* host) { return *static_cast<HostCallbacks*>(host->context); }

std::string text_or_empty(const char* text) { return text == nullptr ? "" : text; }

}  // namespace

// Captureless lambdas, so that each has the type that its member declares.
HostCallbacks::HostCallbacks(const LayerContext& context)
    : one_(context.one), comm_(context.comm), params_(context), experts_backend_(context.one.experts_backend) {
  using H = const MoecheckHost*;
  using S = MoecheckStatus;
  table_.struct_size = sizeof table_;
  table_.abi_version = MOECHECK_PLUGIN_ABI_VERSION;
  table_.context = this;
  table_.message = [](H h) { return self(h).message(); };
  table_.log = [](H h, const char* line) {
    std::fprintf(stderr, "plug-in, rank %lld: %s\n", static_cast<long long>(self(h).rank()), line == nullptr ? "" : line);
  };
  table_.weights = [](H h, const char* tap, std::int64_t first, std::int64_t count, DLTensor* into) -> S {
    return self(h).guarded("weights", [&] { self(h).weights(tap, first, count, into); });
  };
  table_.parameter = [](H h, const char* tap, const DLTensor* value, const DLTensor* grad, const char* cuts) -> S {
    return self(h).guarded("parameter", [&] { self(h).parameter(tap, value, grad, cuts); });
  };
  table_.tap = [](H h, const char* name, const DLTensor* tensor, const char* cuts, const std::int64_t* global_shape) -> S {
    return self(h).guarded("tap", [&] { self(h).tap(name, tensor, cuts, global_shape); });
  };
  table_.experts_backend = [](H h, const char* name) -> S { return self(h).guarded("experts_backend", [&] { self(h).set_experts_backend(name); }); };
  table_.declare = [](H h, const char* phase, const char* kind, const char* dims, const char* site, std::int64_t times, std::int64_t bytes) -> S {
    return self(h).guarded("declare", [&] {
      self(h).declare(phase, {text_or_empty(kind), text_or_empty(dims), text_or_empty(site), times, bytes});
    });
  };
  table_.all_reduce_sum = [](H h, DLTensor* tensor, const char* dims, const char* site) -> S {
    return self(h).guarded("all_reduce_sum", [&] { self(h).all_reduce_sum(tensor, dims, site); });
  };
  table_.broadcast = [](H h, DLTensor* tensor, std::int64_t source, const char* dims, const char* site) -> S {
    return self(h).guarded("broadcast", [&] { self(h).broadcast(tensor, source, dims, site); });
  };
  table_.all_gather = [](H h, const DLTensor* local, const std::int64_t* rows, DLTensor* into, const char* dims, const char* site) -> S {
    return self(h).guarded("all_gather", [&] { self(h).all_gather(local, rows, into, dims, site); });
  };
  table_.reduce_scatter_sum = [](H h, const DLTensor* whole, const std::int64_t* rows, DLTensor* into, const char* dims, const char* site) -> S {
    return self(h).guarded("reduce_scatter_sum", [&] { self(h).reduce_scatter_sum(whole, rows, into, dims, site); });
  };
  table_.all_to_all = [](H h, const DLTensor* rows, const std::int64_t* send, const std::int64_t* receive, DLTensor* into, const char* dims,
                         const char* site) -> S {
    return self(h).guarded("all_to_all", [&] { self(h).all_to_all(rows, send, receive, into, dims, site); });
  };
  table_.barrier = [](H h, const char* dims, const char* site) -> S { return self(h).guarded("barrier", [&] { self(h).barrier(dims, site); }); };
}

}  // namespace moecheck::parallel_impls
