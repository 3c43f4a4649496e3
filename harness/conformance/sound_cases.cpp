// Small sound cases over all that is declared.
#include <algorithm>
#include <map>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "harness/conformance/declared.h"
#include "harness/conformance/item.h"
#include "harness/conformance/trial.h"

namespace moecheck::conformance {
namespace {

using record::CaseRecord;
using record::CheckState;
using record::Verdict;

// Ids of an implementation's cases; some may make no sense, as a mesh that the model does not divide into.
std::vector<std::string> ids_of(const subject::Capabilities& capabilities, const subject::ImplementationInfo& impl) {
  std::vector<std::string> ids;
  const std::string phases = phases_of(capabilities);
  const auto add = [&](const std::string& mesh, const std::string& dtype, const std::string& backend, const std::string& more) {
    ids.push_back(fmt::format("impl={} model=qwen3_moe mesh={} dtype={} experts_backend={} phases={}{}", impl.name, mesh, dtype,
                              backend, phases, more));
  };
  const std::vector<std::string> meshes = meshes_of(impl);
  for (const std::string& dtype : capabilities.dtypes)
    for (const std::string& mesh : meshes) {
      add(mesh, dtype, usual_backend(impl), "");
      if (tokens_over_all(mesh) != "dp,fsdp") add(mesh, dtype, usual_backend(impl), " tokens_over=" + tokens_over_all(mesh));
    }
  for (const std::string& backend : impl.experts_backends)
    for (const std::string& dtype : capabilities.dtypes)
      if (backend != usual_backend(impl)) add(meshes.size() > 1 ? meshes[1] : meshes[0], dtype, backend, "");
  return ids;
}

std::string config_of(const CaseRecord& record, std::string_view knob) {
  const auto found = std::ranges::find(record.config, knob, &std::pair<std::string, std::string>::first);
  return found == record.config.end() ? "" : found->second;
}

// What was asked for by knob=value and passed in no case.
void note_unpassed(const std::vector<CaseRecord>& records, std::string_view knob, std::vector<std::string>& notes) {
  std::map<std::string, bool> has_passed;
  for (const CaseRecord& record : records) has_passed[config_of(record, "impl") + " " + config_of(record, knob)] |= record.verdict == Verdict::kPass;
  for (const auto& [what, passed] : has_passed)
    if (!passed)
      notes.push_back(fmt::format("every case of {} {} is refused: {}", knob, what,
                                  std::ranges::find_if(records, [&](const CaseRecord& record) {
                                    return config_of(record, "impl") + " " + config_of(record, knob) == what;
                                  })->reason));
}

// Checks that never looked in a case that passed, though it was about what they check.
void note_unobserved(const std::vector<CaseRecord>& records, std::vector<std::string>& notes) {
  std::set<std::string> unobserved, looked;
  for (const CaseRecord& record : records)
    for (const record::CheckResult& check : record.checks)
      if (record.verdict == Verdict::kPass && check.state != CheckState::kNotApplicable)
        (check.state == CheckState::kUnobserved ? unobserved : looked).insert(check.name);
  std::erase_if(unobserved, [&](const std::string& name) { return looked.contains(name); });
  if (!unobserved.empty())
    notes.push_back(fmt::format("nothing was shown to these checks: {}; `moecheck explain` says what each wants",
                                fmt::join(unobserved, ", ")));
}

}  // namespace

ItemResult sound_cases(Trial& trial) {
  std::vector<driver::IdentifiedCase> cases;
  std::set<std::string> seen;
  for (const subject::ImplementationInfo& impl : trial.capabilities().implementations)
    for (const std::string& id : ids_of(trial.capabilities(), impl))
      if (auto one = trial.case_of(id); one && seen.insert(one->id).second) cases.push_back(*std::move(one));
  if (cases.empty()) return failed("no case could be made of what is declared");
  const auto records = trial.run(cases);
  if (!records) return failed(records.error().text());
  std::map<std::string, int> num_passed;
  int num_refused = 0;
  for (const CaseRecord& record : *records) {
    const bool is_refused = record.verdict == Verdict::kUnsupported;
    // "rank 0 in open: " and nothing behind it
    if (is_refused && (record.reason.empty() || record.reason.ends_with(": "))) return failed("refused without a reason: " + record_text(record));
    if (!is_refused && record.verdict != Verdict::kPass) return failed(record_text(record));
    num_passed[config_of(record, "impl")] += is_refused ? 0 : 1;
    num_refused += is_refused ? 1 : 0;
  }
  for (const auto& [impl, number] : num_passed)
    if (number == 0)
      return failed(fmt::format("{} refuses every case that its declaration allows; the first: {}", impl,
                                record_text(*std::ranges::find_if(*records, [&](const CaseRecord& record) {
                                  return config_of(record, "impl") == impl;
                                }))));
  std::vector<std::string> notes;
  note_unobserved(*records, notes);
  for (const char* knob : {"dtype", "experts_backend"}) note_unpassed(*records, knob, notes);
  return ok(fmt::format("{} cases pass, {} are refused with a reason", records->size() - static_cast<std::size_t>(num_refused), num_refused),
            std::move(notes));
}

}  // namespace moecheck::conformance
