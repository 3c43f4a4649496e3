#include "parallel_impls/savers/staging.h"

#include "harness/checkpoint/commit.h"
#include "parallel_impls/loaders/all_ranks.h"
#include "parallel_impls/savers/saver.h"

namespace moecheck::parallel_impls {

namespace fs = std::filesystem;

void agree(const base::Status& mine, LayerContext& context, std::string_view site) {
  at::Tensor failed = at::full({1}, mine ? 0 : 1, at::TensorOptions().dtype(at::kLong).device(context.device));
  context.comm->all_reduce_sum(failed, all_dims(context.comm->mesh()), site);
  if (!mine) throw FileFailure("save: " + mine.error().text());
  if (const auto others = failed.item<std::int64_t>(); others > 0)
    throw FileFailure(fmt::format("save: given up, {} of the other ranks could not do their part", others));
}

base::Status write_whole(const fs::path& path, const std::function<base::Status()>& write, const SavePoint& reached) {
  if (auto written = write(); !written) return written;
  if (reached) {
    std::error_code code;
    const auto size = fs::file_size(path, code);
    if (!code) fs::resize_file(path, size / 2, code);
    if (code) return base::Error{base::ErrorCode::kIo, code.message(), path.string()};
    reached(cases::CrashPoint::kTorn);
    if (auto written = write(); !written) return written;
  }
  return checkpoint::sync_file(path);
}

std::vector<trace::DeclaredCollective> declared_of_save(const std::vector<PlacedTensor>& weights, const cases::Case& one) {
  std::vector<trace::DeclaredCollective> all;
  const bool is_sharded = one.checkpointing.save == cases::SaveFormat::kSharded;
  for (const PlacedTensor& placed : weights)
    for (const model::Cut& cut : placed.cuts)
      if (!is_sharded && one.problem.mesh.size(cut.mesh_dim) > 1)
        all.push_back({"all_gather", group_name(one.problem.mesh, cut.mesh_dim), placed.name, 1, -1});
  const std::string everybody = group_name(one.problem.mesh, all_dims(one.problem.mesh));
  if (everybody.empty()) return all;
  for (const char* site : {"save/staged", "save/files", "save/committed"})
    if (is_sharded || site == std::string_view("save/committed"))
      all.push_back({"all_reduce", everybody, site, 1, static_cast<model::Dim>(sizeof(std::int64_t))});
  return all;
}

void reach(const SavePoint& reached, cases::CrashPoint point) {
  if (reached) reached(point);
}

void remove_staging(const fs::path& folder) {
  std::error_code code;   // what cannot be removed is no part of a save either
  fs::remove_all(checkpoint::staging_of(folder), code);
}

}  // namespace moecheck::parallel_impls
