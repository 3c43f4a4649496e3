#include "harness/checkpoint/checkpoint.h"
#include "harness/trace/layout.h"
#include "harness/trace/tap_points.h"
#include "parallel_impls/layer/tensor_bridge.h"
#include "parallel_impls/loaders/slices.h"
#include "parallel_impls/loaders/source.h"

namespace moecheck::parallel_impls {
namespace {

class ShardedSource final : public Source {
 public:
  ShardedSource(const std::filesystem::path& folder, const LayerContext& context) : folder_(folder), context_(context) {
    auto found = checkpoint::read_checkpoint(folder);
    if (!found) throw FileFailure("checkpoint " + found.error().text());
    if (found->form != checkpoint::Form::kSharded)
      throw FileFailure(fmt::format("checkpoint {}: is of the form '{}', a training checkpoint was expected", folder.string(), checkpoint::form_name(found->form)));
    checkpoint_ = *std::move(found);
  }

  bool has(std::string_view name) const override { return checkpoint_.tensors.contains(std::string(name)); }

  at::Tensor read(std::string_view name, const Kept& kept) const override {
    const auto found = checkpoint_.tensors.find(std::string(name));
    if (found == checkpoint_.tensors.end()) throw FileFailure(fmt::format("checkpoint {} has no tensor '{}'", folder_.string(), name));
    const checkpoint::ShardedTensor& tensor = found->second;
    refuse_other_shape(name, tensor.shape, kept);
    at::Tensor read = blank(kept_shape(kept), to_torch(tensor.dtype), at::kCPU);
    for (const checkpoint::Shard& shard : context_.seams.shards_to_read(tensor, context_.comm->rank()))
      copy_overlap(read, kept, shard.box, checkpoint_.opened.at(shard.file).tensors.at(shard.key));
    return read;
  }

 private:
  // None for a name that the layer does not have.
  std::optional<base::Shape> expected_shape(std::string_view name) const {
    const trace::TapPoint* tap = trace::find_tap(name);
    if (tap == nullptr) return std::nullopt;
    if (tap->kind == trace::TapKind::kParam) return trace::global_param_shape(context_.one.problem.model, name);
    return trace::declared_shape(context_.one.problem, name, context_.comm->rank(), {});
  }

  void refuse_other_shape(std::string_view name, const base::Shape& shape, const Kept& kept) const {
    const auto expected = expected_shape(name);
    if ((!expected || *expected == shape) && is_kept_inside(kept, shape)) return;
    throw FileFailure(fmt::format("checkpoint {}: tensor '{}' has shape {}, expected {}", (folder_ / checkpoint::kIndexFile).string(), name,
                                  base::shape_text(shape),
                                  expected && *expected != shape ? base::shape_text(*expected) : "one that has all that a rank keeps"));
  }

  std::filesystem::path folder_;
  const LayerContext& context_;
  checkpoint::Checkpoint checkpoint_;
};

}  // namespace

std::unique_ptr<Source> open_sharded_source(const std::filesystem::path& folder, const LayerContext& context) {
  return std::make_unique<ShardedSource>(folder, context);
}

}  // namespace moecheck::parallel_impls
