// What an implementation is to the rank program: it loads its shard, then computes; and how it makes itself known.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "parallel_impls/layer/seams.h"

namespace moecheck::parallel_impls {

// A layout or request that the implementation does not support: answered "unsupported", never run as something else.
class Unsupported : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A file that could not be read or written, or is damaged: answered "io".
class FileFailure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct LayerContext {
  const cases::Case& one;
  std::shared_ptr<Communicator> comm;
  model::Dim local_rank = 0;
  at::Device device = at::kCPU;
  Seams seams;
};

// What a layer is loaded from.
struct Origin {
  std::filesystem::path folder;
  bool is_resumed = false;   // a save of the case, in its format; else the checkpoint that the case begins with
};

// Called where a save may be broken off; may never return. Empty: nobody wants to know.
using SavePoint = std::function<void(cases::CrashPoint)>;

class Layer {
 public:
  virtual ~Layer() = default;
  // Ranks: every rank of the mesh. Taps param/*, and optim/* and state/* of a training that goes on.
  virtual void load(const Origin& origin, Tapper& tapper) = 0;
  // After load or step: writes what the ranks hold to `folder`, complete or not at all.
  // Ranks: every rank of the mesh. Errors: FileFailure.
  virtual void save(const std::filesystem::path& folder, const SavePoint& reached) = 0;
  // The number of the batch that the next forward is given: where the data goes on.
  virtual model::Dim next_batch() const = 0;
  // x_TD: tokens of the rank's token shard. Ranks: every rank of the mesh, also with T == 0.
  virtual void forward(const at::Tensor& x_TD, Tapper& tapper) = 0;
  // After forward, of a case whose phases have a backward. grad_y_TD: the loss's gradient of the output. Taps grad/*.
  // Ranks: every rank of the mesh, also with T == 0.
  virtual void backward(const at::Tensor& grad_y_TD, Tapper& tapper) = 0;
  // After the backwards of a step: one step of the optimizer with the sum of their gradients. Taps optim/*.
  virtual void step(Tapper& tapper) = 0;
  // What the implementation sends in a phase, from the case alone, whatever a seam was replaced with.
  virtual std::vector<trace::DeclaredCollective> declared(std::string_view phase) const = 0;
  virtual const std::vector<trace::PlanEntry>& plan() const = 0;   // after load
  virtual std::string experts_backend() const = 0;                 // the one that really runs
  virtual at::Device device() const = 0;
};

struct Implementation {
  std::string name;
  std::string summary;
  std::vector<std::string> mesh_dims;
  std::function<std::unique_ptr<Layer>(LayerContext)> make;   // throws Unsupported
};

const std::vector<Implementation>& implementations();
bool register_implementation(Implementation implementation);

}  // namespace moecheck::parallel_impls

#define MOECHECK_REGISTER_IMPLEMENTATION(...) \
  [[maybe_unused]] static const bool moecheck_registered_implementation = ::moecheck::parallel_impls::register_implementation(__VA_ARGS__)
