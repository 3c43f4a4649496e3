#include <algorithm>

#include "harness/checkpoint/commit.h"
#include "harness/subject/checkpoint.h"
#include "parallel_impls/layer/tensor_bridge.h"
#include "parallel_impls/savers/saver.h"
#include "parallel_impls/savers/staging.h"

namespace moecheck::parallel_impls {
namespace {

using cases::CrashPoint;
using model::Dim;
using subject::Weight;
using subject::WeightPart;

// Whole on every rank for a moment; rank 0 keeps them, on the host.
LayerParams gather_weights(const std::vector<PlacedTensor>& saved, LayerContext& context) {
  LayerParams gathered;
  for (const ParamInfo& param : kAllParams) {
    const auto placed = std::ranges::find(saved, tap_of("param", param), &PlacedTensor::name);
    if (placed == saved.end()) throw std::runtime_error(fmt::format("save: there is no '{}'", tap_of("param", param)));
    const at::Tensor whole = context.seams.gather_whole(*placed, *context.comm);
    if (context.comm->rank() == 0) gathered.*param.member = whole.detach().cpu().contiguous();
  }
  return gathered;
}

class WeightSaver {
 public:
  WeightSaver(LayerParams gathered, const std::filesystem::path& folder, const LayerContext& context, const SavePoint& reached)
      : gathered_(std::move(gathered)), folder_(folder), staging_(checkpoint::staging_of(folder)), reached_(reached), problem_(context.one.problem) {
    // As many experts as were gathered: the files show what a gather missed.
    problem_.model.num_experts = std::min({problem_.model.num_experts, gathered_.gate_up_EGD.size(0), gathered_.down_EDF.size(0)});
    files_ = subject::weight_files(problem_, subject::weight_form(context.one.checkpointing));
  }

  base::Status save() const {
    if (auto begun = checkpoint::begin_staging(folder_); !begun) return begun;
    reach(reached_, CrashPoint::kStaged);
    for (const subject::WeightFile& file : files_)
      if (auto written = write(file); !written) return written;
    reach(reached_, CrashPoint::kFiles);
    if (auto written = subject::write_weight_index(staging_, files_, problem_.dtype); !written) return written;
    reach(reached_, CrashPoint::kIndex);
    if (auto committed = checkpoint::commit(folder_); !committed) return committed;
    reach(reached_, CrashPoint::kCommitted);
    return base::Ok{};
  }

 private:
  // A save that is torn is so in its last file.
  base::Status write(const subject::WeightFile& file) const {
    const auto write_file = [&] { return subject::write_weight_file(staging_, file, [&](const Weight& weight) { return to_host(tensor_of(weight)); }); };
    return write_whole(staging_ / file.name, write_file, &file == &files_.back() ? reached_ : SavePoint());
  }

  at::Tensor tensor_of(const Weight& weight) const {
    const Dim d_ff = problem_.model.d_ff;
    switch (weight.part) {
      case WeightPart::kAttention: return gathered_.attention_DD;
      case WeightPart::kRouter: return gathered_.router_ED;
      case WeightPart::kGate: return gathered_.gate_up_EGD.select(0, weight.expert).narrow(0, 0, d_ff);
      case WeightPart::kUp: return gathered_.gate_up_EGD.select(0, weight.expert).narrow(0, d_ff, d_ff);
      case WeightPart::kDown: return gathered_.down_EDF.select(0, weight.expert);
      case WeightPart::kPackedGateUp: return gathered_.gate_up_EGD;
      case WeightPart::kPackedDown: return gathered_.down_EDF;
    }
    throw std::logic_error(weight.name);
  }

  LayerParams gathered_;
  const std::filesystem::path& folder_;
  std::filesystem::path staging_;
  const SavePoint& reached_;
  model::Problem problem_;
  std::vector<subject::WeightFile> files_;
};

}  // namespace

void save_huggingface(const std::vector<PlacedTensor>& state, const std::filesystem::path& folder, LayerContext& context, const SavePoint& reached) {
  LayerParams gathered = gather_weights(context.seams.saved_state(state), context);
  base::Status committed = base::Ok{};
  if (context.comm->rank() == 0) committed = WeightSaver(std::move(gathered), folder, context, reached).save();
  if (!committed) remove_staging(folder);
  agree(committed, context, "save/committed");
}

}  // namespace moecheck::parallel_impls
