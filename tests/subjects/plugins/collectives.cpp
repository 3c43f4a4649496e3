// A layer of zeros that sends through every callback there is, over dp=2,ep=2, and holds what comes back against what has to.
#include <cstddef>
#include <initializer_list>

#include <moecheck_plugin.hpp>

namespace {

using Ints = moecheck::native::Tensor<std::int64_t>;
using moecheck::native::must;

struct Collectives {
  Collectives(const MoecheckCase& one, const MoecheckHost& callbacks)
      : host(callbacks), rank(one.rank), dp(one.coordinates[0]), ep(one.coordinates[1]) {}

  void load(const char*) {}
  void forward(const DLTensor&, DLTensor& y_TD) {
    for (std::int64_t i = 0; i < y_TD.shape[0] * y_TD.shape[1]; ++i) static_cast<float*>(y_TD.data)[i] = 0;
    all_reduce_of_every_second();
    gather();
    reduce_scatter();
    exchange();
    broadcast();
    must(host, host.barrier(&host, "dp,ep", "barrier"));
  }
  void backward(const DLTensor&, DLTensor&) {}

  static void expect(std::int64_t is, std::int64_t should_be, const char* of) {
    if (is != should_be) throw std::runtime_error(std::string(of) + " gave " + std::to_string(is) + " instead of " + std::to_string(should_be));
  }

  // Strides reach over what is not to be touched. A dimension that the mesh lacks makes no difference.
  void all_reduce_of_every_second() {
    Ints numbers({4, 2});
    for (auto& number : numbers.data) number = rank;
    std::int64_t shape[1] = {4}, strides[1] = {2};
    DLTensor view = numbers.view();
    view.ndim = 1;
    view.shape = shape;
    view.strides = strides;
    must(host, host.all_reduce_sum(&host, &view, "ep,tp", "all_reduce"));
    for (std::int64_t i = 0; i < 4; ++i) {
      expect(numbers.row(i)[0], 2 * (rank - ep) + 1, "all_reduce_sum");
      expect(numbers.row(i)[1], rank, "what lies between");
    }
  }

  // Coordinate c has c + 1 rows (c over dp and ep is the rank).
  void gather() {
    Ints mine({rank + 1, 1}), all({10, 1});
    for (auto& number : mine.data) number = rank;
    const DLTensor from = mine.view();
    DLTensor into = all.view();
    const std::int64_t rows[4] = {1, 2, 3, 4 + MOECHECK_TOO_MANY_ROWS};
    must(host, host.all_gather(&host, &from, rows, &into, "dp,ep", "all_gather"));
    const std::int64_t should_be[10] = {0, 1, 1, 2, 2, 2, 3, 3, 3, 3};
    for (std::int64_t i = 0; i < 10; ++i) expect(*all.row(i), should_be[i], "all_gather");
  }

  void reduce_scatter() {
    Ints whole({10, 1}), mine({rank + 1, 1});
    for (std::int64_t i = 0; i < 10; ++i) *whole.row(i) = 100 * rank + i;
    const DLTensor from = whole.view();
    DLTensor into = mine.view();
    const std::int64_t rows[4] = {1, 2, 3, 4};
    must(host, host.reduce_scatter_sum(&host, &from, rows, &into, "dp,ep", "reduce_scatter"));
    for (std::int64_t i = 0; i <= rank; ++i) expect(*mine.row(i), 600 + 4 * (rank * (rank + 1) / 2 + i), "reduce_scatter_sum");
  }

  // As many rows as both coordinates and one more; each says where it comes from and where it goes.
  void exchange() {
    const std::int64_t rows[2] = {ep + 1, ep + 2};
    Ints sent({2 * ep + 3, 1}), received({2 * ep + 3, 1});
    for (std::int64_t i = 0; i < 2 * ep + 3; ++i) *sent.row(i) = 10 * rank + (i < rows[0] ? 0 : 1);
    const DLTensor from = sent.view();
    DLTensor into = received.view();
    must(host, host.all_to_all(&host, &from, rows, rows, &into, "ep", "all_to_all"));
    for (std::int64_t i = 0; i < 2 * ep + 3; ++i) expect(*received.row(i), 10 * (2 * dp + (i < rows[0] ? 0 : 1)) + ep, "all_to_all");
  }

  void broadcast() {
    Ints number({1});
    number.data[0] = rank;
    DLTensor view = number.view();
    must(host, host.broadcast(&host, &view, 1, "dp", "broadcast"));
    expect(number.data[0], 2 + ep, "broadcast");
  }

  const MoecheckHost& host;
  std::int64_t rank, dp, ep;
};

const char* describe() {
  return R"({"name": "collectives", "implementations": [{"name": "collectives", "mesh_dims": ["dp", "ep"], "experts_backends": ["eager"]}],
             "dtypes": ["fp32"], "phases": ["load", "forward"]})";
}

}  // namespace

extern "C" const MoecheckPlugin* moecheck_plugin() {
  static const MoecheckPlugin plugin = moecheck::native::plugin_of<Collectives>(describe);
  return &plugin;
}
