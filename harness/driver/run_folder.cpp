#include "harness/driver/run_folder.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sstream>

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

constexpr const char* kRunFile = "run.json";   // of record::write_run_record
constexpr const char* kEvents = "events.jsonl";
constexpr const char* kTraces = "traces";
constexpr const char* kAbout = "case.json";

void remove_earlier_run(const fs::path& path) {
  std::error_code code;
  fs::remove(path / kRunFile, code);
  fs::remove(path / kEvents, code);
  // Only what keep_trace() made: the folder may be the user's own.
  std::vector<fs::path> traces;
  for (const auto& entry : fs::directory_iterator(path / kTraces, code))
    if (fs::exists(entry.path() / kAbout, code)) traces.push_back(entry.path());
  for (const fs::path& trace : traces) fs::remove_all(trace, code);
}

Json to_json(const check::PhaseFailure& failure) {
  return {{"rank", failure.rank}, {"phase", failure.phase}, {"message", failure.message}, {"traceback", failure.traceback},
          {"batch", failure.batch}, {"life", failure.life}};
}

check::PhaseFailure failure_from_json(const Json& json) {
  return {json.at("rank").get<std::int64_t>(), json.at("phase").get<std::string>(), json.value("message", ""), json.value("traceback", ""),
          json.value("batch", std::int64_t{0}), json.value("life", std::size_t{0})};
}

Json to_json(const check::CollectiveMismatch& m) {
  return {{"rank", m.rank}, {"other_rank", m.other_rank}, {"got", trace::to_json(m.got)}, {"want", trace::to_json(m.want)}};
}

check::CollectiveMismatch mismatch_from_json(const Json& json) {
  return {json.at("rank").get<std::int64_t>(), json.at("other_rank").get<std::int64_t>(), trace::collective_from_json(json.at("got")),
          trace::collective_from_json(json.at("want"))};
}

base::Result<KeptTrace> read_kept(const fs::path& path) {
  auto about = base::read_json_file(path / kAbout);
  if (!about) return about.error();
  try {
    KeptTrace one{path, about->at("id").get<std::string>(), {}, about->value("xfail_reason", "")};
    one.extent.num_lives = about->value("lives", std::size_t{1});
    for (const Json& f : about->at("phase_failures")) one.extent.failures.push_back(failure_from_json(f));
    if (about->contains("mismatch")) one.extent.mismatch = mismatch_from_json((*about)["mismatch"]);
    return one;
  } catch (const Json::exception& e) {
    return Error{ErrorCode::kDamaged, e.what(), (path / kAbout).string()};
  }
}

}  // namespace

base::Result<RunFolder> RunFolder::open(const fs::path& path) {
  if (auto made = base::make_folders(path); !made)
    return Error{ErrorCode::kIo, made.error().message + "; name a folder that can be written with --out", made.error().where};
  remove_earlier_run(path);
  RunFolder folder(path);
  folder.events_.open(path / kEvents, std::ios::app);
  if (!folder.events_) return write_error(path / kEvents, errno);
  return folder;
}

base::Status RunFolder::append_event(const Json& event) {
  events_ << event.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n' << std::flush;
  if (!events_) return write_error(path_ / kEvents, errno);
  return base::Ok{};
}

base::Status RunFolder::keep_trace(std::size_t index, const KeptTrace& one) {
  const fs::path target = path_ / kTraces / std::to_string(index);
  std::error_code code;
  fs::remove_all(target, code);
  fs::create_directories(target, code);
  if (!code && fs::exists(one.trace, code)) fs::copy(one.trace, target, fs::copy_options::recursive, code);
  if (code) {
    const int reason = code.value();
    fs::remove_all(target, code);  // half a trace must not be taken for one
    return write_error(target, reason);
  }
  Json about = {{"id", one.id}, {"xfail_reason", one.xfail_reason}, {"lives", one.extent.num_lives}, {"phase_failures", Json::array()}};
  for (const check::PhaseFailure& failure : one.extent.failures) about["phase_failures"].push_back(to_json(failure));
  if (one.extent.mismatch) about["mismatch"] = to_json(*one.extent.mismatch);
  auto written = base::write_file_atomically(target / kAbout, about.dump(1, ' ', false, Json::error_handler_t::replace));
  if (!written) fs::remove_all(target, code);
  return written;
}

base::Result<std::vector<KeptTrace>> kept_traces(const fs::path& run) {
  std::vector<std::pair<long, fs::path>> folders;
  std::error_code code;
  for (const auto& entry : fs::directory_iterator(run / kTraces, code))
    folders.emplace_back(std::strtol(entry.path().filename().c_str(), nullptr, 10), entry.path());
  std::ranges::sort(folders);
  std::vector<KeptTrace> kept;
  for (const auto& [index, path] : folders) {
    auto one = read_kept(path);
    if (!one) return one.error();
    kept.push_back(*std::move(one));
  }
  return kept;
}

base::Result<record::RunRecord> read_run(const fs::path& run) {
  std::error_code code;
  const fs::path events = run / kEvents;
  if (!fs::is_directory(run, code) || fs::exists(run / kRunFile, code) || !fs::exists(events, code)) return record::read_run_record(run);
  auto text = base::read_file(events);
  if (!text) return text.error();
  Json whole = {{"schema", 1}, {"interrupted", true}, {"cases", Json::array()}};
  std::istringstream lines(*text);
  for (std::string line; std::getline(lines, line);) {
    auto event = base::parse_json(line, events.string());
    // The driver may have been killed in the middle of the last line.
    if (!event) break;
    if (event->is_object() && event->contains("case")) whole["cases"].push_back((*event)["case"]);
    for (const char* field : {"command", "subject", "started", "moecheck_version"})
      if (event->is_object() && event->contains(field)) whole[field] = (*event)[field];
  }
  auto recovered = record::run_record_from_json(whole);
  if (!recovered) return Error{recovered.error().code, recovered.error().message, events.string()};
  return recovered;
}

}  // namespace moecheck::driver
