#include "parallel_impls/plugin_host/plugin_layer.h"

#include <algorithm>
#include <new>

#include "harness/trace/tap_points.h"
#include "parallel_impls/layer/progress.h"
#include "parallel_impls/layer/tensor_bridge.h"
#include "parallel_impls/loaders/loader.h"
#include "parallel_impls/optim/training.h"
#include "parallel_impls/plugin_host/case_view.h"
#include "parallel_impls/plugin_host/dlpack_tensor.h"
#include "parallel_impls/plugin_host/host_callbacks.h"
#include "parallel_impls/savers/saver.h"

namespace moecheck::parallel_impls {
namespace {

using trace::DeclaredCollective;

class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(std::string message) : message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  std::string message_;
};

class PluginLayer final : public Layer {
 public:
  PluginLayer(std::shared_ptr<const PluginLibrary> library, LayerContext context)
      : library_(std::move(library)), context_(std::move(context)), view_(context_), host_(context_) {
    if (const std::string why = library_->refusal(context_.one); !why.empty()) throw Unsupported(why);
    call("open", nullptr, [&] { return table().open(view_.get(), host_.table(), &layer_); });
    if (layer_ == nullptr) throw std::runtime_error("the plug-in's open says that all is well, and leaves no layer");
  }
  ~PluginLayer() override {
    if (layer_ != nullptr) table().close(layer_);
  }
  PluginLayer(const PluginLayer&) = delete;
  PluginLayer& operator=(const PluginLayer&) = delete;

  std::string experts_backend() const override { return host_.experts_backend(); }
  at::Device device() const override { return at::kCPU; }
  const std::vector<trace::PlanEntry>& plan() const override { return plan_; }
  model::Dim next_batch() const override { return progress_.batches(); }

  void load(const Origin& origin, Tapper& tapper) override {
    const std::string folder = origin.folder.string();
    call("load", &tapper, [&] { return table().load(layer_, origin.is_resumed ? nullptr : folder.c_str()); });
    require_registered();
    is_loaded_ = true;
    values_ = host_.params().values();
    const bool is_training_resumed = origin.is_resumed && context_.one.checkpointing.save == cases::SaveFormat::kSharded;
    std::unique_ptr<Source> source;
    if (is_training_resumed) source = open_sharded_source(origin.folder, context_);
    if (origin.is_resumed && !is_training_resumed) source = open_hf_source(origin.folder, context_.one.problem);
    if (source != nullptr) restore_parameters(*source);
    show(host_.params().placed("param", values_), tapper);
    if (!context_.one.has_phase("step")) return;
    if (table().step == nullptr) training_ = std::make_unique<Training>(context_, values_, host_.params().sharding());
    if (is_training_resumed) return restore_training(*source, tapper);
    show(training_state(), tapper);
  }

  void forward(const at::Tensor& x_TD, Tapper& tapper) override {
    TORCH_CHECK(is_loaded_, "a forward without a load");
    tapper.tap("input/x_TD", x_TD);
    LentTensor x(x_TD.contiguous()), y(blank(x_TD.sizes().vec(), x_TD.scalar_type(), at::kCPU));
    call("forward", &tapper, [&] { return table().forward(layer_, x.get(), y.get()); });
    tapper.tap("output/y_TD", y.tensor());
    has_output_ = true;
    take_batch();
  }

  void backward(const at::Tensor& grad_y_TD, Tapper& tapper) override {
    TORCH_CHECK(has_output_, "a backward without a forward");
    tapper.tap("grad/y_TD", grad_y_TD);
    const LayerParams& gradients = host_.params().gradients();
    for (const ParamInfo& param : kTrainable)
      if (host_.params().has_gradient(param)) at::Tensor(gradients.*param.member).zero_();
    LentTensor grad_y(grad_y_TD.contiguous()), grad_x(blank(grad_y_TD.sizes().vec(), grad_y_TD.scalar_type(), at::kCPU));
    call("backward", &tapper, [&] { return table().backward(layer_, grad_y.get(), grad_x.get()); });
    tapper.tap("grad/x_TD", grad_x.tensor());
    show(host_.params().placed("grad", gradients), tapper);
    if (training_ != nullptr) training_->accumulate(gradients);
  }

  void step(Tapper& tapper) override {
    TORCH_CHECK(has_output_, "a step without a forward");
    if (training_ != nullptr) {
      step_of_host(tapper);
    } else {
      call("step", &tapper, [&] { return table().step(layer_, progress_.learning_rate()); });
      show_unless_shown(host_.params().placed("optim/param", values_), tapper);
    }
    progress_.end_step(*context_.comm);
    show(known_progress(), tapper);
  }

  void save(const std::filesystem::path& folder, const SavePoint& reached) override {
    std::vector<PlacedTensor> state = host_.params().placed("param", values_);
    if (context_.one.checkpointing.save == cases::SaveFormat::kHuggingFace) return save_huggingface(state, folder, context_, reached);
    if (training_ != nullptr) std::ranges::move(training_state(), std::back_inserter(state));
    save_sharded(state, folder, context_, reached);
  }

  // All or nothing: what a plug-in does not declare would count as redundant beside the host's part.
  std::vector<DeclaredCollective> declared(std::string_view phase) const override {
    if (!host_.has_declared()) return {};
    std::vector<DeclaredCollective> all = host_.declared(phase);
    const auto add = [&](const std::vector<DeclaredCollective>& more) { all.insert(all.end(), more.begin(), more.end()); };
    if (phase == "load") add(declared_of_fill(filled_, context_.one));
    if (phase == "save") add(declared_of_save(host_.params().placed("param", values_), context_.one));
    if (phase == "step" && training_ != nullptr) add(training_->declared());
    if (phase == "step") add(progress_.declared());
    return all;
  }

 private:
  const MoecheckPlugin& table() const { return library_->table; }

  // Errors: what the status means, with the plug-in's message.
  template <typename Call>
  void call(const char* phase, Tapper* tapper, Call work) {
    host_.begin(phase, tapper);
    MoecheckStatus status = MOECHECK_ERROR;
    try {
      status = work();
    } catch (const std::exception& e) {
      host_.end();
      throw std::runtime_error(fmt::format("the plug-in lets an exception out of {}: {}", phase, e.what()));
    }
    const std::string failure = host_.end();
    if (status == MOECHECK_OK && failure.empty()) return;
    if (status == MOECHECK_OK) throw std::runtime_error(fmt::format("the plug-in went on in {} after a callback had failed: {}", phase, failure));
    const char* text = table().message(layer_);
    std::string message = text == nullptr || *text == '\0' ? fmt::format("the plug-in's {} failed without a message", phase) : text;
    if (!failure.empty() && message.find(failure) == std::string::npos) message += fmt::format(" (after {})", failure);
    raise(status, message);
  }

  [[noreturn]] static void raise(MoecheckStatus status, const std::string& message) {
    if (status == MOECHECK_UNSUPPORTED) throw Unsupported(message);
    if (status == MOECHECK_OUT_OF_MEMORY) throw OutOfMemory(message);
    if (status == MOECHECK_IO) throw FileFailure(message);
    if (status == MOECHECK_ERROR) throw std::runtime_error(message);
    throw std::runtime_error(fmt::format("{} (status {}, which means nothing)", message, status));
  }

  static void show(const std::vector<PlacedTensor>& tensors, Tapper& tapper) {
    for (const PlacedTensor& one : tensors) tapper.tap_placed(one.name, one.tensor, one.cuts, one.global_shape);
  }

  void show_unless_shown(std::vector<PlacedTensor> tensors, Tapper& tapper) const {
    std::erase_if(tensors, [&](const PlacedTensor& one) { return trace::find_tap(one.name) == nullptr || host_.has_shown(one.name); });
    show(tensors, tapper);
  }

  // What the host is to step or save, it has to know.
  void require_registered() const {
    const cases::Case& one = context_.one;
    for (const ParamInfo& param : kTrainable)
      if (one.has_phase("step") && table().step == nullptr && !(host_.params().has(param) && host_.params().has_gradient(param)))
        throw Unsupported(fmt::format("{} does not register {} with a gradient, which a step of the host needs", one.impl, tap_of("param", param)));
    for (const ParamInfo& param : kAllParams)
      if (one.checkpointing.save != cases::SaveFormat::kNone && !host_.params().has(param))
        throw Unsupported(fmt::format("{} does not register {}, which a save of the host needs", one.impl, tap_of("param", param)));
  }

  // Onto blank values: what stays blank was never loaded.
  void restore_parameters(const Source& source) {
    std::vector<PlacedTensor> placed = host_.params().placed("param", values_);
    for (PlacedTensor& one : placed) one.tensor.copy_(blank(one.tensor.sizes().vec(), one.tensor.scalar_type(), at::kCPU));
    fill(placed, source, context_);
    filled_ = std::move(placed);
  }

  void restore_training(const Source& source, Tapper& tapper) {
    const auto is_brought = [&](std::string_view name) { return source.has(name); };
    std::vector<PlacedTensor> blanks = training_->blank_state(is_brought);
    for (PlacedTensor& one : progress_.state())
      if (is_brought(one.name)) blanks.push_back(std::move(one));
    fill(blanks, source, context_);
    training_->finish_restoring();
    filled_.insert(filled_.end(), blanks.begin(), blanks.end());
    show(blanks, tapper);
  }

  std::vector<PlacedTensor> training_state() const {
    std::vector<PlacedTensor> state;
    if (training_ != nullptr) state = training_->state();
    std::ranges::move(progress_.state(), std::back_inserter(state));
    return state;
  }

  // The plug-in may not show which experts its tokens went to.
  std::vector<PlacedTensor> known_progress() const {
    std::vector<PlacedTensor> state = progress_.state();
    if (!are_ids_shown_) std::erase_if(state, [](const PlacedTensor& one) { return one.name == "state/tokens_E"; });
    return state;
  }

  // Ids out of range are for the checks to find.
  void take_batch() {
    const at::Tensor& ids = host_.ids_TK();
    are_ids_shown_ = ids.defined();
    const model::Dim num_experts = context_.one.problem.model.num_experts;
    progress_.take_batch(are_ids_shown_ ? ids.masked_select(ids.ge(0).logical_and(ids.lt(num_experts))) : at::empty({0}, at::kLong));
  }

  // The optimizer makes new tensors; the plug-in computes with its own.
  void step_of_host(Tapper& tapper) {
    LayerParams stepped = values_;
    training_->step(stepped, progress_.learning_rate(), tapper);
    for (const ParamInfo& param : kTrainable) (values_.*param.member).copy_(stepped.*param.member);
  }

  std::shared_ptr<const PluginLibrary> library_;
  LayerContext context_;
  CaseView view_;
  HostCallbacks host_;
  MoecheckLayer* layer_ = nullptr;
  LayerParams values_;
  std::vector<PlacedTensor> filled_;     // by the load of a save
  std::vector<trace::PlanEntry> plan_;   // a plug-in has none to show
  Progress progress_{context_};
  bool are_ids_shown_ = false;
  bool is_loaded_ = false;
  bool has_output_ = false;
  std::unique_ptr<Training> training_;
};

}  // namespace

std::unique_ptr<Layer> make_plugin_layer(std::shared_ptr<const PluginLibrary> library, LayerContext context) {
  return std::make_unique<PluginLayer>(std::move(library), std::move(context));
}

}  // namespace moecheck::parallel_impls
