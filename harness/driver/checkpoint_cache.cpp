#include "harness/driver/checkpoint_cache.h"

#include "harness/subject/checkpoint.h"

namespace moecheck::driver {
namespace {

constexpr std::uintmax_t kMaxKeptBytes = std::uintmax_t{1} << 30;

}  // namespace

CheckpointFolder::~CheckpointFolder() {
  std::error_code code;
  std::filesystem::remove_all(path_, code);
}

base::Result<std::shared_ptr<const CheckpointFolder>> CheckpointCache::get(const cases::Case& one) {
  const std::lock_guard lock(mutex_);
  const subject::WeightForm form = subject::weight_form(one.checkpointing);
  const std::string key = subject::checkpoint_key(one.problem, form);
  if (const auto found = kept_.find(key); found != kept_.end()) return found->second;
  if (kept_bytes_ > kMaxKeptBytes) {
    kept_.clear();
    kept_bytes_ = 0;
  }
  auto folder = std::make_shared<const CheckpointFolder>(folder_ / ("c" + std::to_string(next_++)));
  if (auto written = subject::write_checkpoint(folder->path(), one.problem, form); !written) return written.error();
  for (const auto& file : std::filesystem::directory_iterator(folder->path())) kept_bytes_ += file.file_size();
  kept_.emplace(key, folder);
  return folder;
}

}  // namespace moecheck::driver
