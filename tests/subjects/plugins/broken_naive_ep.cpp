// The example naive_ep, spoilt at one place by MOECHECK_SPOILT: between it and the host, or at its entries. The example itself is as it is.
#include <cstdlib>
#include <string_view>

#include <moecheck_plugin.hpp>

#define moecheck_plugin sound_plugin
#include "parallel_impls/external/plugin/examples/naive_ep.cpp"
#undef moecheck_plugin

namespace {

enum Spoilt {
  kMissingAllReduce,   // the partial sums are not reduced
  kWrongExperts,       // loads the experts of the rank before
  kErrorInForward,     // rank 1 returns an error
  kSwallowedFailure,   // goes on after a collective failed
  kException,          // lets one out
  kUnwrittenOutput,    // leaves y_TD as it is
  kUnwrittenHeap,      // adds numbers from fresh memory to y_TD
  kBadTensor,          // shows a tensor that is none
  kOwnStep,            // steps itself, and is sound
  kOwnStepTooLong,     // steps itself, with twice the rate
};
constexpr Spoilt kSpoilt = MOECHECK_SPOILT;

const MoecheckPlugin& sound() { return *sound_plugin(); }

// The host's own table, and the one that the example is given.
struct Tables {
  const MoecheckHost* real = nullptr;
  MoecheckHost shown{};
  std::int64_t rank = 0;
};
Tables& tables() {
  static Tables all;
  return all;
}

std::string& own_message() {
  static std::string text;
  return text;
}

MoecheckStatus spoilt_open(const MoecheckCase* one, const MoecheckHost* host, MoecheckLayer** layer) {
  tables() = {host, *host, one->rank};
  if (kSpoilt == kMissingAllReduce) {
    tables().shown.all_reduce_sum = [](const MoecheckHost* of, DLTensor* tensor, const char* dims, const char* site) -> MoecheckStatus {
      return std::string(site) == "output/y_TD" ? MOECHECK_OK : tables().real->all_reduce_sum(of, tensor, dims, site);
    };
  }
  if (kSpoilt == kWrongExperts) {
    tables().shown.weights = [](const MoecheckHost* of, const char* tap, std::int64_t first, std::int64_t count, DLTensor* into) -> MoecheckStatus {
      const bool is_of_experts = std::string(tap).find("experts/") != std::string::npos;
      return tables().real->weights(of, tap, is_of_experts && first >= count ? first - count : first, count, into);
    };
  }
  return sound().open(one, &tables().shown, layer);
}

MoecheckStatus spoilt_forward(MoecheckLayer* layer, const DLTensor* x_TD, DLTensor* y_TD) {
  own_message().clear();
  const MoecheckHost& host = *tables().real;
  if (kSpoilt == kErrorInForward && tables().rank == 1) {
    own_message() = "the shop is closed";
    return MOECHECK_ERROR;
  }
  if (kSpoilt == kException) throw std::runtime_error("nobody catches this");
  if (kSpoilt == kSwallowedFailure) host.all_reduce_sum(&host, y_TD, "moon", "output/y_TD");
  if (kSpoilt == kBadTensor) {
    DLTensor none = *y_TD;
    none.data = nullptr;
    if (host.tap(&host, "output/y_TD", &none, nullptr, nullptr) != MOECHECK_OK) {
      own_message() = "cannot show it";
      return MOECHECK_ERROR;
    }
  }
  DLTensor elsewhere = *y_TD;
  Floats aside({y_TD->shape[0], y_TD->shape[1]});
  if (kSpoilt == kUnwrittenOutput) elsewhere.data = aside.data.data();
  const MoecheckStatus status = sound().forward(layer, x_TD, &elsewhere);
  if (kSpoilt == kUnwrittenHeap) {
    constexpr std::size_t kCount = 1 << 16;
    float* fresh = static_cast<float*>(std::malloc(kCount * sizeof(float)));
    for (std::size_t i = 0; i < kCount; i += kCount / 2) *static_cast<float*>(y_TD->data) += static_cast<volatile float*>(fresh)[i];
    std::free(fresh);
  }
  return status;
}

const char* spoilt_message(const MoecheckLayer* layer) { return own_message().empty() ? sound().message(layer) : own_message().c_str(); }

struct OwnParam {
  const char* name;
  Floats& value;
  Floats& grad;
  const char* cuts;
};

// SGD without momentum, decay and clipping on the registered memory; a step has one microbatch.
MoecheckStatus own_step(MoecheckLayer* layer, double learning_rate) {
  NaiveEp& own = moecheck::native::Entries<NaiveEp>::opened(layer).layer;
  const MoecheckHost& host = *tables().real;
  const double rate = kSpoilt == kOwnStepTooLong ? 2 * learning_rate : learning_rate;
  const auto show = [&](const std::string& name, Floats& tensor, const char* cuts) {
    const DLTensor view = tensor.view();
    moecheck::native::must(host, host.tap(&host, name.c_str(), &view, cuts, nullptr));
  };
  return moecheck::native::Entries<NaiveEp>::guarded(own_message(), [&] {
    Floats clip_1({1});
    clip_1.data[0] = 1;
    show("optim/clip_1", clip_1, nullptr);
    for (const OwnParam& param : {OwnParam{"router/w_ED", own.router_ED, own.grad_router_ED, nullptr},
                                  OwnParam{"experts/gate_up_EGD", own.gate_up_EGD, own.grad_gate_up_EGD, "Shard(0) over ep"},
                                  OwnParam{"experts/down_EDF", own.down_EDF, own.grad_down_EDF, "Shard(0) over ep"}}) {
      show(std::string("optim/grad/") + param.name, param.grad, param.cuts);
      add(param.value.data.data(), param.grad.data.data(), static_cast<std::int64_t>(param.value.data.size()), static_cast<float>(-rate));
      show(std::string("optim/master/") + param.name, param.value, param.cuts);
    }
  });
}

// As the example's, without the saves of a host that does not step.
const char* describe_own_step() {
  static const std::string text = [] {
    std::string all = sound().describe();
    constexpr std::string_view kSave = ", \"save\"";
    return all.erase(all.find(kSave), kSave.size());
  }();
  return text.c_str();
}

}  // namespace

extern "C" const MoecheckPlugin* moecheck_plugin() {
  static MoecheckPlugin plugin = sound();
  plugin.open = spoilt_open;
  plugin.message = spoilt_message;
  plugin.forward = spoilt_forward;
  if (kSpoilt == kOwnStep || kSpoilt == kOwnStepTooLong) {
    plugin.step = own_step;
    plugin.describe = describe_own_step;
  }
  return &plugin;
}
