#include "harness/subject/rank_place.h"

#include <array>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <fmt/format.h>

namespace moecheck::subject {
namespace {

struct Variables {
  const char* rank;
  const char* local_rank;
  const char* world_size;
  bool is_read_by_launcher = false;   // and not only set for its ranks
};

constexpr std::array kLaunchers = {
    Variables{"RANK", "LOCAL_RANK", "WORLD_SIZE"},
    Variables{"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE"},
    Variables{"PMI_RANK", "MPI_LOCALRANKID", "PMI_SIZE"},
    Variables{"SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS", true},
};

base::Result<model::Dim> number(const Environment& environment, const char* name) {
  const auto text = environment(name);
  model::Dim value = -1;
  if (text) {
    const auto [end, code] = std::from_chars(text->data(), text->data() + text->size(), value);
    if (code != std::errc() || end != text->data() + text->size()) value = -1;
  }
  if (value < 0) return base::Error{base::ErrorCode::kUsage, fmt::format("is {}; expected a number", text ? "'" + *text + "'" : "not set"), name};
  return value;
}

}  // namespace

Environment process_environment() {
  return [](const std::string& name) -> std::optional<std::string> {
    const char* text = std::getenv(name.c_str());
    return text == nullptr ? std::nullopt : std::optional<std::string>(text);
  };
}

base::Result<RankPlace> rank_place(const Environment& environment) {
  for (const Variables& launcher : kLaunchers) {
    if (!environment(launcher.rank)) continue;
    const auto rank = number(environment, launcher.rank);
    if (!rank) return rank.error();
    const auto world_size = number(environment, launcher.world_size);
    if (!world_size) return world_size.error();
    // srun and MPICH may leave the local one out.
    const auto local_rank = environment(launcher.local_rank) ? number(environment, launcher.local_rank) : rank;
    if (!local_rank) return local_rank.error();
    if (*rank >= *world_size)
      return base::Error{base::ErrorCode::kUsage, fmt::format("is {}, and {} is {}", *rank, launcher.world_size, *world_size), launcher.rank};
    return RankPlace{*rank, *local_rank, *world_size};
  }
  return base::Error{base::ErrorCode::kUsage, "is not set, nor what mpirun or srun set; this program is started by moecheck, or ask it for --moecheck-describe", "RANK"};
}

std::vector<std::string> rank_variables() {
  std::vector<std::string> names = {"LOCAL_WORLD_SIZE"};
  for (const Variables& launcher : kLaunchers)
    if (!launcher.is_read_by_launcher) names.insert(names.end(), {launcher.rank, launcher.local_rank, launcher.world_size});
  return names;
}

std::string machine_name() {
  std::string boot;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot);
  std::error_code code;
  return boot + "/" + std::filesystem::read_symlink("/proc/self/ns/pid", code).string();
}

}  // namespace moecheck::subject
