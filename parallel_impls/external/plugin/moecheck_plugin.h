// moecheck's C ABI for native subjects, C99: a shared object that exports moecheck_plugin() is tested with
//
//   moecheck run --subject "moecheck-rank --plugin PATH.so" --case "impl=NAME model=qwen3_moe mesh=ep=2 phases=load,forward,backward,step"
//
// A layer in C++ is shorter over moecheck_plugin.hpp; examples/naive_ep.cpp is one to begin with.
//
// A rank is a process. The host calls one function at a time, on one thread:
//   describe, then for each case: open, load, then for each batch forward and backward, step after the last of a step; close.
// Callbacks may be called on that thread while one of these calls runs. Every rank of a group makes the same collectives in the same order.
//
// Who owns what. Whatever a call is given is borrowed until it returns, but for MoecheckCase and MoecheckHost, which live until close
// returns, and the buffers of registered parameters. The host copies what it is shown before it returns. Nobody frees what the other
// allocated. Tensors are views of CPU memory; the host's own are dense, strides of NULL mean row-major. T, D, E: docs/architecture.md, Vocabulary.
//
// Errors are values: a call that returns anything but MOECHECK_OK has its reason in message(), whose text belongs to the side that was
// called and lives until its next call. No exception may cross. A plug-in gives up where a callback fails: going on is an error.
//
// Versions. Structs only grow at their end, and then MOECHECK_PLUGIN_ABI_VERSION is raised. The host takes plug-ins of its own and of older
// versions, whose MoecheckPlugin may be smaller, as far down as `close`: what it lacks counts as NULL. Newer ones it refuses.
#ifndef MOECHECK_PLUGIN_H_
#define MOECHECK_PLUGIN_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// The borrowed tensor of DLPack, in its layout and names. Include dlpack.h, or LibTorch's copy of it, before this header if you use it.
#ifndef DLPACK_DLPACK_H_
typedef enum { kDLCPU = 1 } DLDeviceType;
typedef struct { DLDeviceType device_type; int32_t device_id; } DLDevice;
typedef enum { kDLInt = 0U, kDLUInt = 1U, kDLFloat = 2U, kDLBfloat = 4U, kDLBool = 6U } DLDataTypeCode;
typedef struct { uint8_t code; uint8_t bits; uint16_t lanes; } DLDataType;
typedef struct {
  void* data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t* shape;
  int64_t* strides;       // in elements
  uint64_t byte_offset;
} DLTensor;
typedef struct DLManagedTensor {
  DLTensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(struct DLManagedTensor* self);
} DLManagedTensor;
#endif

#define MOECHECK_PLUGIN_ABI_VERSION 1u

typedef int32_t MoecheckStatus;
enum {
  MOECHECK_OK = 0,
  MOECHECK_UNSUPPORTED = 1,     // the case is refused, never run as something else: verdict unsupported
  MOECHECK_ERROR = 2,           // the phase failed: a finding with the message
  MOECHECK_OUT_OF_MEMORY = 3,   // and
  MOECHECK_IO = 4               // a file could not be read: say nothing about the layer, verdict error
};

// What is asked for. Lists have as many entries as the count before them.
typedef struct MoecheckCase {
  size_t struct_size;
  uint32_t abi_version;
  const char* implementation;
  const char* experts_backend;
  int64_t rank, local_rank, world_size;
  size_t num_mesh_dims;                 // the first outermost; rank is row-major in it
  const char* const* mesh_dims;         // "dp", "ep", ...
  const int64_t* mesh_sizes;
  const int64_t* coordinates;           // of this rank
  int64_t num_experts, top_k, d_model, d_ff;
  int32_t renormalise;                  // divide the K scores by their sum; scores are softmax over E, in fp32,
                                        // unless the knob softmax and routed_scale in json say otherwise
  int32_t has_backward;
  DLDataType dtype;                     // of weights, tokens and what is computed
  int64_t num_tokens;                   // T of this rank, in every batch; may be 0
  int64_t first_token;                  // the global index of its first; rows are named by global tokens
  size_t num_knobs;                     // all that the case says: docs/knobs.md
  const char* const* knob_names;
  const char* const* knob_values;
  const char* json;                     // {"config": {knob: value}, "model": {sizes, and names in the checkpoint}}
} MoecheckCase;

// What the host does for a plug-in. Each callback takes the table itself.
//
// cuts: how a local tensor lies in the global one, "Shard(0) over ep; StridedShard(1,2) over tp" or "Partial over ep"; cuts of one dim nest, the
//       first outermost. NULL or "": the same on every rank.
// dims: mesh dimensions, "ep", or "dp,ep" for several that count as one, the first outermost; those that the mesh lacks make no difference.
//       Over a group of one nothing is sent, and the result is what was put in. Coordinate c is a rank's place in the group.
// site: the tap at which a collective stands, or any word. Rows are dim 0.
typedef struct MoecheckHost MoecheckHost;
struct MoecheckHost {
  size_t struct_size;
  uint32_t abi_version;
  void* context;   // the host's
  // Of the callback that failed last.
  const char* (*message)(const MoecheckHost* host);
  // A line for the rank's stderr, which a report of a crash quotes.
  void (*log)(const MoecheckHost* host, const char* line);

  // In load. Rows first .. first + count - 1 of dim 0 of a whole weight into a tensor of that shape, as the driver generates them:
  // "param/router/w_ED", "param/experts/gate_up_EGD" (gate rows, then up rows), "param/experts/down_EDF", "param/attention/w_DD".
  MoecheckStatus (*weights)(const MoecheckHost* host, const char* tap, int64_t first, int64_t count, DLTensor* into);
  // In load. A parameter that the plug-in computes with, dense, and the buffer of its gradient, or NULL. Both stay where they are until
  // close. The host shows them: the value after load, the gradient after each backward, before which it is set to 0. It writes the value
  // in its own step and where it restores a save, so that no copy may be computed with.
  MoecheckStatus (*parameter)(const MoecheckHost* host, const char* tap, const DLTensor* value, const DLTensor* grad, const char* cuts);
  // In any phase. Shows a tensor as it is now: docs/architecture.md, Taps. Indices are int64. global_shape: as many sizes as the tensor has
  // dims, or NULL: each dim that is cut has as many such pieces. What is not shown is listed as unobserved by the checks that want it.
  MoecheckStatus (*tap)(const MoecheckHost* host, const char* name, const DLTensor* tensor, const char* cuts, const int64_t* global_shape);
  // The experts backend that really runs, if it is another than was asked for.
  MoecheckStatus (*experts_backend)(const MoecheckHost* host, const char* name);
  // In open. What the plug-in is meant to send in each such phase, "load", "forward", "backward" or "step"; bytes of this rank over all times,
  // -1 where that depends on the routing. Who declares anything declares all that it sends, and is held to it. kind: as the callbacks below,
  // without _sum.
  MoecheckStatus (*declare)(const MoecheckHost* host, const char* phase, const char* kind, const char* dims, const char* site, int64_t times,
                            int64_t bytes);

  // In place.
  MoecheckStatus (*all_reduce_sum)(const MoecheckHost* host, DLTensor* tensor, const char* dims, const char* site);
  // In place, from the rank with coordinate `source`.
  MoecheckStatus (*broadcast)(const MoecheckHost* host, DLTensor* tensor, int64_t source, const char* dims, const char* site);
  // The rows of all ranks, one after the other; rows[c] of coordinate c.
  MoecheckStatus (*all_gather)(const MoecheckHost* host, const DLTensor* local, const int64_t* rows, DLTensor* into, const char* dims,
                               const char* site);
  // The sum over ranks of `whole`, of which coordinate c gets its rows[c].
  MoecheckStatus (*reduce_scatter_sum)(const MoecheckHost* host, const DLTensor* whole, const int64_t* rows, DLTensor* into, const char* dims,
                                       const char* site);
  // send[c] rows to coordinate c, receive[c] rows from it, each in order of c.
  MoecheckStatus (*all_to_all)(const MoecheckHost* host, const DLTensor* rows, const int64_t* send, const int64_t* receive, DLTensor* into,
                               const char* dims, const char* site);
  // Seen by the driver as an all_reduce of one int64.
  MoecheckStatus (*barrier)(const MoecheckHost* host, const char* dims, const char* site);
};

typedef struct MoecheckLayer MoecheckLayer;   // the plug-in's own, one an open case

typedef struct MoecheckPlugin {
  size_t struct_size;
  uint32_t abi_version;
  // JSON that lives as long as the library:
  //   {"name": "mine", "version": "1", "implementations": [{"name": "mine", "summary": "", "mesh_dims": ["ep"], "experts_backends": ["eager"]}],
  //    "dtypes": ["fp32"], "phases": ["load", "forward", "backward", "step", "save"], "heeds": []}
  // Any case outside of it is refused. heeds: knobs that the layer looks at, of recompute, loader, apply_scores, softmax, expert_tp,
  // tokens_over (tokens sharded over ep or tp), routed_scale and activation (of the model, in json: usually 1 and silu): others with anything
  // but the usual value are refused. "save": the host saves and restores
  // registered parameters and its own optimizer's state.
  const char* (*describe)(void);
  // Of the last call on this layer that failed; with NULL, of the last open.
  const char* (*message)(const MoecheckLayer* layer);
  // A layer for the case. Where it fails, *layer stays as it is and nothing is closed.
  MoecheckStatus (*open)(const MoecheckCase* one, const MoecheckHost* host, MoecheckLayer** layer);
  // Once: registers parameters and loads the weights, from the callback or from `checkpoint`, a folder in the family's Hugging Face layout
  // with the same values. checkpoint is NULL where the host restores a save afterwards: then values need not be loaded.
  MoecheckStatus (*load)(MoecheckLayer* layer, const char* checkpoint);
  // x_TD: the rank's tokens, which the host shows. Fills y_TD, which the host shows. Ranks: all, also with T == 0.
  MoecheckStatus (*forward)(MoecheckLayer* layer, const DLTensor* x_TD, DLTensor* y_TD);
  // Ends the case; frees the layer.
  void (*close)(MoecheckLayer* layer);
  // From here on members may be NULL.
  // After forward. The loss is a sum over all tokens of y * grad_y: a gradient of a parameter is the sum over the ranks that hold it with
  // other tokens. Adds to the gradient buffers, fills grad_x_TD, which the host shows. Ranks: all.
  MoecheckStatus (*backward)(MoecheckLayer* layer, const DLTensor* grad_y_TD, DLTensor* grad_x_TD);
  // The plug-in's own optimizer, by the knobs of `train`. It shows optim/grad/*, optim/norm_1, optim/clip_1 (1 without clipping), the moments and
  // optim/master/*: what follows from what it does not show is not judged. The host shows optim/param/* of registered parameters.
  // NULL: the host steps router, gate_up and down, which must be registered with gradients then.
  MoecheckStatus (*step)(MoecheckLayer* layer, double learning_rate);
} MoecheckPlugin;

#if defined(_WIN32)
#define MOECHECK_PLUGIN_EXPORT __declspec(dllexport)
#else
#define MOECHECK_PLUGIN_EXPORT __attribute__((visibility("default")))
#endif

// The one symbol that a plug-in exports. The table lives as long as the library.
MOECHECK_PLUGIN_EXPORT const MoecheckPlugin* moecheck_plugin(void);

#ifdef __cplusplus
}
#endif

#endif
