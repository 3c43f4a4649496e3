// How fast a sharded checkpoint is written, read and counted, beside a plain copy of the same files on the same disk in the same run.
//
//   checkpoint_bench [--json] [--folder DIR]
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "harness/base/json.h"
#include "harness/checkpoint/checkpoint.h"
#include "harness/checkpoint/commit.h"
#include "harness/checkpoint/expert_census.h"
#include "harness/checkpoint/save_rank.h"

namespace {

namespace fs = std::filesystem;
using moecheck::base::DType;
using moecheck::base::HostTensor;
using moecheck::base::Json;
using moecheck::model::Dim;
using moecheck::model::Mesh;
using namespace moecheck::checkpoint;

constexpr int kRepeats = 7;
constexpr double kMebi = 1024.0 * 1024.0;
constexpr std::size_t kCopyBuffer = 1 << 20;

// bf16 weights and fp32 masters and moments of 32 experts over 4 ranks: 256 MiB.
constexpr Dim kExperts = 32;
constexpr Dim kModelDim = 512;
constexpr Dim kHiddenDim = 384;

struct RankState {
  std::vector<LocalTensor> tensors;
};

HostTensor filled(DType dtype, moecheck::base::Shape shape, Dim rank) {
  HostTensor tensor(dtype, std::move(shape));
  auto bytes = tensor.mutable_bytes();
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 31 + i / 4099 + static_cast<std::size_t>(rank));
  return tensor;
}

std::vector<RankState> make_states(const Mesh& mesh) {
  std::vector<RankState> states;
  for (Dim rank = 0; rank < mesh.world_size(); ++rank) {
    RankState state;
    const auto add = [&](const std::string& name, DType dtype, const moecheck::base::Shape& global) {
      const std::vector<moecheck::model::Cut> cuts = {{"ep", moecheck::model::shard(0)}};
      state.tensors.push_back({name, filled(dtype, moecheck::model::held_shape(cuts, global, mesh, rank), rank), cuts, global});
    };
    for (const auto& [prefix, dtype] : {std::pair("param", DType::kBF16), {"optim/master", DType::kF32}, {"optim/m", DType::kF32}, {"optim/v", DType::kF32}}) {
      add(fmt::format("{}/experts/gate_up_EGD", prefix), dtype, {kExperts, 2 * kHiddenDim, kModelDim});
      add(fmt::format("{}/experts/down_EDF", prefix), dtype, {kExperts, kModelDim, kHiddenDim});
    }
    states.push_back(std::move(state));
  }
  return states;
}

// Measures nothing that failed.
void require_ok(const moecheck::base::Status& status) {
  if (status) return;
  fmt::print(stderr, "checkpoint_bench: {}\n", status.error().text());
  std::abort();
}

void save(const fs::path& folder, const Mesh& mesh, const std::vector<RankState>& states) {
  require_ok(begin_staging(folder));
  Index index{mesh.world_size(), mesh, {}, {}};
  for (Dim rank = 0; rank < mesh.world_size(); ++rank) {
    const auto& tensors = states[static_cast<std::size_t>(rank)].tensors;
    require_ok(write_rank_file(staging_of(folder), mesh, rank, tensors));
    add_shards(index, rank, tensors);
  }
  require_ok(write_index(staging_of(folder), index));
  require_ok(commit(folder));
}

void copy_file(const fs::path& from, const fs::path& to, bool is_synced) {
  static std::vector<char> buffer(kCopyBuffer);
  const int in = ::open(from.c_str(), O_RDONLY | O_CLOEXEC);
  const int out = ::open(to.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  MOECHECK_REQUIRE(in >= 0 && out >= 0, from.string());
  for (ssize_t count = 0; (count = ::read(in, buffer.data(), buffer.size())) > 0;)
    MOECHECK_REQUIRE(::write(out, buffer.data(), static_cast<std::size_t>(count)) == count, to.string());
  if (is_synced) MOECHECK_REQUIRE(::fsync(out) == 0, to.string());
  ::close(in);
  ::close(out);
}

void copy_folder(const fs::path& from, const fs::path& to, bool is_synced) {
  fs::create_directories(to);
  for (const auto& entry : fs::directory_iterator(from)) copy_file(entry.path(), to / entry.path().filename(), is_synced);
}

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::size_t load_all(const fs::path& folder) {
  const auto checkpoint = read_checkpoint(folder);
  if (!checkpoint) require_ok(checkpoint.error());
  std::size_t bytes = 0;
  for (const auto& [name, tensor] : checkpoint->tensors) bytes += tensor_of(*checkpoint, name).num_bytes();
  return bytes;
}

std::size_t count_experts(const fs::path& folder) {
  const auto checkpoint = read_checkpoint(folder);
  if (!checkpoint) require_ok(checkpoint.error());
  return experts_by_file(*checkpoint).size();
}

struct Times {
  double save = 1e30;
  double load = 1e30;
  double census = 1e30;
  double copy = 1e30;
  double synced_copy = 1e30;
};

// The best of each, interleaved, so that what else the disk does meets all alike.
Times measure(const fs::path& root, const Mesh& mesh, const std::vector<RankState>& states) {
  Times best;
  const auto take = [](double& so_far, double seconds) { so_far = std::min(so_far, seconds); };
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    for (const char* name : {"save", "copy", "synced"}) fs::remove_all(root / name);
    take(best.save, seconds_of([&] { save(root / "save", mesh, states); }));
    take(best.synced_copy, seconds_of([&] { copy_folder(root / "save", root / "synced", true); }));
    take(best.copy, seconds_of([&] { copy_folder(root / "save", root / "copy", false); }));
    take(best.load, seconds_of([&] { MOECHECK_REQUIRE(load_all(root / "save") > 0); }));
    take(best.census, seconds_of([&] { MOECHECK_REQUIRE(count_experts(root / "save") == states.size()); }));
  }
  return best;
}

Json run_all(const fs::path& root) {
  const Mesh mesh = Mesh::parse("ep=4").value();
  const std::vector<RankState> states = make_states(mesh);
  const Times best = measure(root, mesh, states);
  std::uintmax_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(root / "save")) bytes += entry.file_size();
  const double mib = static_cast<double>(bytes) / kMebi;
  return {{"mib", mib},
          {"save", {{"mib_per_s", mib / best.save}, {"ratio", best.synced_copy / best.save}}},
          {"load", {{"mib_per_s", mib / best.load}, {"ratio", best.copy / best.load}}},
          {"census", {{"mib_per_s", mib / best.census}, {"ratio", best.copy / best.census}}},
          {"copy", {{"mib_per_s", mib / best.copy}}},
          {"synced_copy", {{"mib_per_s", mib / best.synced_copy}}}};
}

void print_table(const Json& result) {
  fmt::print("checkpoint of {:.0f} MiB; plain copy {:.0f} MiB/s, synced {:.0f} MiB/s\n", result["mib"].get<double>(),
             result["copy"]["mib_per_s"].get<double>(), result["synced_copy"]["mib_per_s"].get<double>());
  for (const char* what : {"save", "load", "census"})
    fmt::print("{:8} {:8.0f} MiB/s   {:.2f} of the copy\n", what, result[what]["mib_per_s"].get<double>(), result[what]["ratio"].get<double>());
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  bool as_json = false;
  fs::path above = fs::temp_directory_path();
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == "--json") as_json = true;
    if (arguments[i] == "--folder" && i + 1 < arguments.size()) above = arguments[++i];
  }
  const fs::path root = above / fmt::format("moecheck_checkpoint_bench_{}", ::getpid());
  fs::create_directories(root);
  const Json result = run_all(root);
  fs::remove_all(root);
  if (as_json) {
    fmt::print("{}\n", result.dump(2));
  } else {
    print_table(result);
  }
  return 0;
}
