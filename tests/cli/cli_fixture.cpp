#include "cli_fixture.h"

#include <algorithm>
#include <set>

#include <fmt/format.h>

namespace moecheck::cli {

namespace fs = std::filesystem;

namespace {

constexpr std::chrono::seconds kCommandLimit{240};

launch::ChildCommand in_folder(const fs::path& folder, const std::vector<std::string>& command) {
  launch::ChildCommand in{{"env", "-C", folder.string()}, {}, folder / "out.txt", folder / "err.txt"};
  in.arguments.insert(in.arguments.end(), command.begin(), command.end());
  in.environment = {{"MOECHECK_SCENARIOS", MOECHECK_SOURCE_DIR "/scenarios"},
                    {"MOECHECK_TMPDIR", (folder / "t").string()},
                    {"PATH", std::string(MOECHECK_BIN_DIR) + ":" + std::getenv("PATH")},
                    {"NO_COLOR", "1"}};
  std::error_code code;
  fs::remove(in.output, code);
  fs::remove(in.errors, code);
  return in;
}

// "NAME=value" of a process; empty if it has none, or is gone.
std::string environment_of(const fs::path& process, const std::string& name) {
  std::istringstream all(launch::text_of(process / "environ"));
  for (std::string one; std::getline(all, one, '\0');)
    if (one.starts_with(name + "=")) return one.substr(name.size() + 1);
  return "";
}

}  // namespace

CliTest::CliTest() { fs::create_directories(folder_ / "t"); }

Outcome CliTest::moecheck(const std::vector<std::string>& arguments) const {
  auto process = start(arguments);
  return finish(process);
}

Outcome CliTest::shell(const std::string& line) const {
  auto process = launch::ChildProcess::start(in_folder(folder_, {"/bin/sh", "-c", line})).value();
  return finish(process);
}

launch::ChildProcess CliTest::start(const std::vector<std::string>& arguments) const {
  std::vector<std::string> command = {MOECHECK_BIN_DIR "/moecheck"};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return launch::ChildProcess::start(in_folder(folder_, command)).value();
}

Outcome CliTest::finish(launch::ChildProcess& process) const {
  const auto exit = process.wait_for(kCommandLimit);
  EXPECT_TRUE(exit) << "moecheck does not end; " << read("err.txt");
  if (!exit) return {};
  EXPECT_EQ(exit->signal, 0) << exit->text() << "; " << read("err.txt");
  return {exit->signal == 0 ? exit->exit_code : -1, read("out.txt"), read("err.txt")};
}

base::Json CliTest::json_of(const Outcome& outcome) const {
  auto json = base::parse_json(outcome.out, "stdout");
  EXPECT_TRUE(json) << "stdout is not one JSON value: " << outcome.out << outcome.err;
  return json ? *json : base::Json::object();
}

base::Json CliTest::record_of(const std::string& run) const {
  auto json = base::read_json_file(folder_ / run / "run.json");
  EXPECT_TRUE(json) << (json ? "" : json.error().text());
  return json ? *json : base::Json::object();
}

void CliTest::write(const std::string& name, const std::string& text) const {
  fs::create_directories((folder_ / name).parent_path());
  std::ofstream(folder_ / name) << text << std::flush;
}

std::vector<int> CliTest::ranks() const {
  std::vector<int> found;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const int pid = std::atoi(entry.path().filename().c_str());
    if (pid > 0 && environment_of(entry.path(), "MOECHECK_SOCKET").starts_with(folder_.string())) found.push_back(pid);
  }
  return found;
}

int CliTest::rank_process(int rank) const {
  for (const int pid : ranks())
    if (environment_of("/proc/" + std::to_string(pid), "RANK") == std::to_string(rank)) return pid;
  return -1;
}

bool CliTest::exists_in_scratch(const std::string& name) const {
  std::error_code code;
  for (const auto& entry : fs::directory_iterator(folder_ / "t", code))
    if (fs::exists(entry.path() / name, code)) return true;
  return false;
}

std::vector<std::string> CliTest::faulty_cases(FaultyCases which) const {
  std::vector<std::string> ids;
  std::set<std::string> seen;
  for (const base::Json& fault : json_of(moecheck({"zoo", "list", "--json"}))) {
    const auto checks = fault["expected_checks"].get<std::set<std::string>>();
    if (fault["control"].get<bool>() || (which == FaultyCases::kForEachCheck && std::ranges::includes(seen, checks))) continue;
    seen.insert(checks.begin(), checks.end());
    ids.push_back(fault["trigger"].get<std::string>() + " fault=" + fault["name"].get<std::string>());
  }
  return ids;
}

std::string unruly_case(const std::string& impl, const std::string& more) {
  return fmt::format("impl={} model=mixtral mesh=ep=2 dtype=fp32 checks=phase_completion{}", impl, more);
}

}  // namespace moecheck::cli
