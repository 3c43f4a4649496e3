// moecheck doctor
#include <filesystem>

#include <fmt/format.h>

#include "harness/base/files.h"
#include "harness/cli/commands.h"
#include "harness/cli/places.h"
#include "harness/cli/run_session.h"

namespace moecheck::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::uintmax_t kWantedBytes = std::uintmax_t{1} << 30;

struct Diagnosis {
  bool is_good = true;
  std::string what;
  std::string remedy;
};

Diagnosis diagnose_ranks() {
  const fs::path program = rank_program();
  if (!fs::exists(program))
    return {false, fmt::format("{} is missing", program.string()), "build it: ci/bootstrap, then cmake --preset dev && cmake --build build"};
  auto prepared = prepare("");
  if (!prepared) return {false, prepared.error().text(), "run ci/bootstrap: it installs LibTorch's wheels; then build again"};
  return {true, fmt::format("{} {}: {} implementations, {} faults", prepared->capabilities.name, prepared->capabilities.version,
                            prepared->capabilities.implementations.size(), prepared->capabilities.faults.size()), ""};
}

Diagnosis diagnose_scratch() {
  auto scratch = launch::ScratchDir::make();
  if (!scratch) return {false, scratch.error().text(), "name a writable folder on tmpfs with MOECHECK_TMPDIR"};
  std::error_code code;
  const auto space = fs::space(scratch->path(), code);
  const std::string text = fmt::format("scratch folder in {}: {} MiB free", scratch->path().parent_path().string(), space.available >> 20);
  if (space.available < kWantedBytes) return {false, text, "free some space there, or name another folder with MOECHECK_TMPDIR; full-size layers need 4 GiB"};
  return {true, text, ""};
}

Diagnosis diagnose_scenarios() {
  auto found = scenarios_dir();
  if (!found) return {false, found.error().text(), "name the scenarios folder with MOECHECK_SCENARIOS"};
  return {true, "scenarios in " + found->string(), ""};
}

Diagnosis diagnose_run_folder() {
  const fs::path folder = ".moecheck";
  if (auto made = base::make_folders(folder); !made) return {false, made.error().text(), "run in a folder that can be written, or use --out"};
  if (auto written = base::write_file_atomically(folder / "doctor", "ok\n"); !written) return {false, written.error().text(), "use --out"};
  fs::remove(folder / "doctor");
  return {true, "run folders in " + fs::absolute(folder).string(), ""};
}

int examine() {
  bool is_good = true;
  for (const Diagnosis& one : {diagnose_ranks(), diagnose_scratch(), diagnose_scenarios(), diagnose_run_folder()}) {
    fmt::print("{}  {}\n", one.is_good ? "ok      " : "MISSING ", one.what);
    if (!one.is_good) fmt::print("          -> {}\n", one.remedy);
    is_good = is_good && one.is_good;
  }
  return is_good ? record::kExitGood : record::kExitCouldNotTest;
}

}  // namespace

void add_doctor(CLI::App& app, Action& action) {
  CLI::App* doctor = app.add_subcommand("doctor", "say what is missing on this machine, and what to do");
  doctor->callback([&action] { action = [] { return examine(); }; });
}

}  // namespace moecheck::cli
