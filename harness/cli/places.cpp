#include "harness/cli/places.h"

#include <cstdlib>

namespace moecheck::cli {

namespace fs = std::filesystem;

fs::path own_folder() {
  std::error_code code;
  return fs::read_symlink("/proc/self/exe", code).parent_path();
}

fs::path rank_program() { return own_folder() / "moecheck-rank"; }

base::Result<fs::path> scenarios_dir() {
  if (const char* named = std::getenv("MOECHECK_SCENARIOS"); named != nullptr && *named != '\0') return fs::path(named);
  for (const fs::path& place : {fs::path("scenarios"), own_folder() / "../../scenarios", own_folder() / "../share/moecheck/scenarios"})
    if (fs::is_directory(place / "models")) return place.lexically_normal();
  return base::Error{base::ErrorCode::kUsage, "no scenarios folder here or beside the program; name it with MOECHECK_SCENARIOS", "scenarios"};
}

fs::path latest_run() { return ".moecheck/latest"; }

}  // namespace moecheck::cli
