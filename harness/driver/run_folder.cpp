#include "harness/driver/run_folder.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "harness/base/files.h"

namespace moecheck::driver {
namespace {

namespace fs = std::filesystem;
using base::Error;
using base::ErrorCode;
using base::Json;

Error write_error(const fs::path& path, int reason) {
  return {ErrorCode::kIo, fmt::format("cannot write: {}; free some space or name another folder with --out", std::strerror(reason)), path.string()};
}

}  // namespace

base::Result<RunFolder> RunFolder::open(const fs::path& path) {
  if (auto made = base::make_folders(path); !made)
    return Error{ErrorCode::kIo, made.error().message + "; name a folder that can be written with --out", made.error().where};
  RunFolder folder(path);
  folder.events_.open(path / "events.jsonl", std::ios::app);
  if (!folder.events_) return write_error(path / "events.jsonl", errno);
  return folder;
}

base::Status RunFolder::append_event(const Json& event) {
  events_ << event.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n' << std::flush;
  if (!events_) return write_error(path_ / "events.jsonl", errno);
  return base::Ok{};
}

base::Status RunFolder::keep_trace(std::size_t index, const fs::path& trace, const std::string& id,
                                   const std::vector<check::PhaseFailure>& failures) {
  const fs::path target = path_ / "traces" / std::to_string(index);
  std::error_code code;
  fs::remove_all(target, code);
  fs::create_directories(target, code);
  if (!code && fs::exists(trace)) fs::copy(trace, target, fs::copy_options::recursive, code);
  if (code) {
    const int reason = code.value();
    fs::remove_all(target, code);  // half a trace must not be taken for one
    return write_error(target, reason);
  }
  Json about = {{"id", id}, {"phase_failures", Json::array()}};
  for (const check::PhaseFailure& failure : failures)
    about["phase_failures"].push_back({{"rank", failure.rank}, {"phase", failure.phase}, {"message", failure.message}, {"traceback", failure.traceback}});
  return base::write_file_atomically(target / "case.json", about.dump(1, ' ', false, Json::error_handler_t::replace));
}

base::Result<std::vector<KeptTrace>> kept_traces(const fs::path& run) {
  std::vector<std::pair<long, fs::path>> folders;
  std::error_code code;
  for (const auto& entry : fs::directory_iterator(run / "traces", code))
    folders.emplace_back(std::strtol(entry.path().filename().c_str(), nullptr, 10), entry.path());
  std::ranges::sort(folders);
  std::vector<KeptTrace> kept;
  for (const auto& [index, path] : folders) {
    auto about = base::read_json_file(path / "case.json");
    if (!about) return about.error();
    KeptTrace one{path, about->value("id", ""), {}};
    for (const Json& f : about->value("phase_failures", Json::array()))
      one.failures.push_back({f.value("rank", std::int64_t{0}), f.value("phase", ""), f.value("message", ""), f.value("traceback", "")});
    kept.push_back(std::move(one));
  }
  return kept;
}

}  // namespace moecheck::driver
