// Plug-ins in C++17, over moecheck_plugin.h: a layer is a class that throws, and a few lines export the table.
//
//   struct Layer {
//     Layer(const MoecheckCase& one, const MoecheckHost& host);      // throws moecheck::native::Unsupported for what it refuses
//     void load(const char* checkpoint);
//     void forward(const DLTensor& x_TD, DLTensor& y_TD);
//     void backward(const DLTensor& grad_y_TD, DLTensor& grad_x_TD);
//   };
//   const char* describe() { return R"({"name": ...})"; }          // see MoecheckPlugin::describe
//   extern "C" const MoecheckPlugin* moecheck_plugin() {
//     static const MoecheckPlugin table = moecheck::native::plugin_of<Layer>(describe);
//     return &table;
//   }
#pragma once

#include <functional>
#include <new>
#include <numeric>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <moecheck_plugin.h>

namespace moecheck::native {

class Unsupported : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Throws where a callback failed.
inline void must(const MoecheckHost& host, MoecheckStatus status) {
  if (status != MOECHECK_OK) throw std::runtime_error(host.message(&host));
}

// A dense tensor of float or int64, zero at first, and how the host is shown it.
template <typename T>
struct Tensor {
  std::vector<std::int64_t> shape;
  std::vector<T> data;

  explicit Tensor(std::vector<std::int64_t> sizes = {0}) : shape(std::move(sizes)) {
    data.resize(static_cast<std::size_t>(std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>())));
  }
  std::int64_t row_size() const { return std::accumulate(shape.begin() + 1, shape.end(), std::int64_t{1}, std::multiplies<>()); }
  T* row(std::int64_t r) { return data.data() + r * row_size(); }
  const T* row(std::int64_t r) const { return data.data() + r * row_size(); }
  DLTensor view() {
    const std::uint8_t code = std::is_floating_point_v<T> ? kDLFloat : kDLInt;
    return {data.data(), {kDLCPU, 0}, static_cast<std::int32_t>(shape.size()), {code, 8 * sizeof(T), 1}, shape.data(), nullptr, 0};
  }
};

// The C functions around a Layer. No exception crosses: it becomes a status and a message.
template <typename Layer>
struct Entries {
  struct Opened {
    Layer layer;
    std::string message;
  };

  static Opened& opened(MoecheckLayer* layer) { return *reinterpret_cast<Opened*>(layer); }
  static std::string& message_of_open() {
    static std::string text;
    return text;
  }

  template <typename Work>
  static MoecheckStatus guarded(std::string& message, Work work) noexcept {
    try {
      work();
      return MOECHECK_OK;
    } catch (const Unsupported& e) {
      message = e.what();
      return MOECHECK_UNSUPPORTED;
    } catch (const std::bad_alloc& e) {
      message = e.what();
      return MOECHECK_OUT_OF_MEMORY;
    } catch (const std::exception& e) {
      message = e.what();
      return MOECHECK_ERROR;
    }
  }

  static const char* message(const MoecheckLayer* layer) {
    return layer == nullptr ? message_of_open().c_str() : reinterpret_cast<const Opened*>(layer)->message.c_str();
  }
  static MoecheckStatus open(const MoecheckCase* one, const MoecheckHost* host, MoecheckLayer** layer) {
    return guarded(message_of_open(), [&] { *layer = reinterpret_cast<MoecheckLayer*>(new Opened{Layer(*one, *host), ""}); });
  }
  static MoecheckStatus load(MoecheckLayer* layer, const char* checkpoint) {
    return guarded(opened(layer).message, [&] { opened(layer).layer.load(checkpoint); });
  }
  static MoecheckStatus forward(MoecheckLayer* layer, const DLTensor* x_TD, DLTensor* y_TD) {
    return guarded(opened(layer).message, [&] { opened(layer).layer.forward(*x_TD, *y_TD); });
  }
  static MoecheckStatus backward(MoecheckLayer* layer, const DLTensor* grad_y_TD, DLTensor* grad_x_TD) {
    return guarded(opened(layer).message, [&] { opened(layer).layer.backward(*grad_y_TD, *grad_x_TD); });
  }
  static void close(MoecheckLayer* layer) { delete &opened(layer); }
};

// Without a step: the host has one.
template <typename Layer>
MoecheckPlugin plugin_of(const char* (*describe)()) {
  using E = Entries<Layer>;
  return {sizeof(MoecheckPlugin), MOECHECK_PLUGIN_ABI_VERSION, describe, E::message, E::open, E::load, E::forward, E::close, E::backward, nullptr};
}

}  // namespace moecheck::native
