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

base::Result<std::shared_ptr<const CheckpointFolder>> CheckpointCache::get(const model::Problem& problem) {
  const std::lock_guard lock(mutex_);
  const std::string key = subject::checkpoint_key(problem);
  if (const auto found = kept_.find(key); found != kept_.end()) return found->second;
  if (kept_bytes_ > kMaxKeptBytes) {
    kept_.clear();
    kept_bytes_ = 0;
  }
  auto folder = std::make_shared<const CheckpointFolder>(folder_ / ("c" + std::to_string(next_++)));
  if (auto written = subject::write_checkpoint(folder->path(), problem); !written) return written.error();
  kept_bytes_ += std::filesystem::file_size(folder->path() / subject::kCheckpointFile);
  kept_.emplace(key, folder);
  return folder;
}

}  // namespace moecheck::driver
