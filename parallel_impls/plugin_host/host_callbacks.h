// The table of callbacks that a plug-in is given, and what it did with them.
#pragma once

#include <map>
#include <string>

#include "parallel_impls/external/plugin/moecheck_plugin.h"
#include "parallel_impls/plugin_host/registered_params.h"

namespace moecheck::parallel_impls {

class HostCallbacks {
 public:
  explicit HostCallbacks(const LayerContext& context);
  HostCallbacks(const HostCallbacks&) = delete;
  HostCallbacks& operator=(const HostCallbacks&) = delete;

  const MoecheckHost* table() const { return &table_; }

  // Around a call of the plug-in; callbacks fail outside of one. tapper: none in open, where nothing can be shown.
  void begin(const std::string& phase, Tapper* tapper);
  // Why the first callback failed since begin(); empty if none did.
  std::string end();

  const RegisteredParams& params() const { return params_; }
  const std::string& experts_backend() const { return experts_backend_; }
  bool has_declared() const { return !declared_.empty(); }
  std::vector<trace::DeclaredCollective> declared(std::string_view phase) const;
  // The names that were shown since begin(), and the ids of the tokens' experts if they were.
  bool has_shown(std::string_view name) const { return shown_.contains(name); }
  const at::Tensor& ids_TK() const { return ids_TK_; }

  // The callbacks themselves. Errors: std::exception, with the reason.
  void weights(const char* tap, std::int64_t first, std::int64_t count, DLTensor* into) const;
  void parameter(const char* tap, const DLTensor* value, const DLTensor* grad, const char* cuts);
  void tap(const char* name, const DLTensor* tensor, const char* cuts, const std::int64_t* global_shape);
  void set_experts_backend(const char* name);
  void declare(const char* phase, trace::DeclaredCollective what);
  void all_reduce_sum(DLTensor* tensor, const char* dims, const char* site);
  void broadcast(DLTensor* tensor, std::int64_t source, const char* dims, const char* site);
  void all_gather(const DLTensor* local, const std::int64_t* rows, DLTensor* into, const char* dims, const char* site);
  void reduce_scatter_sum(const DLTensor* whole, const std::int64_t* rows, DLTensor* into, const char* dims, const char* site);
  void all_to_all(const DLTensor* rows, const std::int64_t* send, const std::int64_t* receive, DLTensor* into, const char* dims, const char* site);
  void barrier(const char* dims, const char* site);

  // Runs `work` of the callback of that name; what it throws becomes a status and message_.
  template <typename Work>
  MoecheckStatus guarded(const char* callback, Work work) noexcept;
  const char* message() const { return message_.c_str(); }
  model::Dim rank() const { return comm_->rank(); }

 private:
  Rows rows_of(const std::int64_t* rows, const char* dims, const at::Tensor* whole) const;

  const cases::Case& one_;
  std::shared_ptr<Communicator> comm_;
  RegisteredParams params_;
  std::string phase_;            // empty outside of a call
  Tapper* tapper_ = nullptr;
  std::string message_;
  std::string first_failure_;
  std::string experts_backend_;
  std::map<std::string, std::vector<trace::DeclaredCollective>, std::less<>> declared_;
  std::set<std::string, std::less<>> shown_;
  at::Tensor ids_TK_;
  MoecheckHost table_{};
};

}  // namespace moecheck::parallel_impls
