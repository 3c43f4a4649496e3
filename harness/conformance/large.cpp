// A parameter of 1 GiB: sizes in 32 bits, copies too many, and buffers that are too small show here.
#include <algorithm>
#include <fstream>
#include <sstream>

#include <fmt/format.h>

#include "harness/base/files.h"
#include "harness/conformance/item.h"
#include "harness/conformance/trial.h"

namespace moecheck::conformance {
namespace {

namespace fs = std::filesystem;

constexpr std::uintmax_t kGiB = std::uintmax_t{1} << 30;
constexpr std::uintmax_t kWantedMemory = 6 * kGiB;
constexpr std::uintmax_t kWantedScratch = 5 * kGiB;
constexpr std::chrono::minutes kLimit{10};
// 8 experts of 16384 x 2048 fp32: gate_up has 1 GiB, down half of it.
constexpr const char* kSizes = "experts=8 top_k=2 d_model=2048 d_ff=8192 dtype=fp32 phases=load";
constexpr std::int64_t kGateUpRows = 8 * 16384;

std::uintmax_t number_in(const fs::path& file) {
  const auto text = base::read_file(file);
  std::uintmax_t number = 0;
  return text && (std::istringstream(*text) >> number) ? number : ~std::uintmax_t{0};   // "max", or no such limit
}

// "MemAvailable:   123 kB" in bytes; 0 without such a line.
std::uintmax_t kilobytes_of(const fs::path& file, const std::string& key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(key + ":")) return std::strtoull(line.c_str() + key.size() + 1, nullptr, 10) << 10;
  return 0;
}

std::uintmax_t free_memory() {
  const fs::path group = "/sys/fs/cgroup";
  const std::uintmax_t limit = number_in(group / "memory.max"), used = number_in(group / "memory.current");
  const std::uintmax_t allowed = limit == ~std::uintmax_t{0} || used == ~std::uintmax_t{0} ? limit : limit - std::min(limit, used);
  return std::min(allowed, kilobytes_of("/proc/meminfo", "MemAvailable"));
}

double in_gib(std::uintmax_t bytes) { return static_cast<double>(bytes) / static_cast<double>(kGiB); }

std::string mesh_text(const record::CaseRecord& record) {
  const auto mesh = std::ranges::find(record.config, "mesh", &std::pair<std::string, std::string>::first);
  return mesh == record.config.end() || mesh->second == "none" ? "one rank" : mesh->second;
}

}  // namespace

ItemResult large(Trial& trial) {
  std::error_code code;
  const std::uintmax_t memory = free_memory(), space = fs::space(trial.options().scratch, code).available;
  if (memory < kWantedMemory || space < kWantedScratch)
    return not_applicable(fmt::format("needs {:.0f} GiB of memory and {:.0f} GiB of scratch space (MOECHECK_TMPDIR), "
                                      "and {:.1f} and {:.1f} GiB are free", in_gib(kWantedMemory),
                                      in_gib(kWantedScratch), in_gib(memory), in_gib(space)));
  const auto& sound = trial.sound_case();
  if (!sound) return failed("no case passes; begin with --only cases");
  if (sound->one.problem.dtype != base::DType::kF32) return not_applicable("it has no fp32");
  std::uintmax_t peak = 0;
  const auto look = [&](const base::Json& request, const std::vector<int>& processes) {
    if (request.value("op", "") != "close") return;
    for (const int process : processes) peak = std::max(peak, kilobytes_of(fmt::format("/proc/{}/status", process), "VmHWM"));
  };
  record::CaseRecord record;
  // On one rank the parameter is there whole; over several each has its part.
  for (const std::string& mesh : {std::string("none"), sound->one.problem.mesh.text()}) {
    const auto one = trial.case_of(fmt::format("impl={} model=qwen3_moe mesh={} tokens_over={} experts_backend={} {}", sound->one.impl, mesh,
                                               sound->one.problem.token_dims_text(), sound->one.experts_backend, kSizes));
    if (!one) return failed(one.error().text());
    const auto records = trial.run({*one}, {{}, look, std::max<std::chrono::milliseconds>(kLimit, trial.options().limit)});
    if (!records) return failed(records.error().text());
    record = records->front();
    if (record.verdict != record::Verdict::kUnsupported) break;
  }
  if (record.verdict == record::Verdict::kUnsupported) return not_applicable("refused: " + record.reason);
  if (record.verdict != record::Verdict::kPass) return failed(record_text(record));
  const auto census = std::ranges::find(record.checks, "expert_census", &record::CheckResult::name);
  if (census == record.checks.end() || census->state == record::CheckState::kUnobserved) return not_applicable("it shows no param/* after load");
  if (census->state != record::CheckState::kPass || census->compared < kGateUpRows)
    return failed(fmt::format("expert_census compared {} rows, and gate_up alone has {}; show every parameter whole", census->compared, kGateUpRows));
  return ok(fmt::format("1 GiB over {} loaded and shown in {:.1f} s, peak of a rank {:.1f} GiB", mesh_text(record),
                        record.subject_seconds, in_gib(peak)));
}

}  // namespace moecheck::conformance
