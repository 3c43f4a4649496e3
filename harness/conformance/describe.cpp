// `CMD --moecheck-describe`: what all else rests on.
#include <algorithm>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "harness/base/files.h"
#include "harness/conformance/item.h"
#include "harness/conformance/trial.h"
#include "harness/launch/child_process.h"

namespace moecheck::conformance {
namespace {

const std::vector<std::string> kMeshDims = {"dp", "fsdp", "ep", "tp"};
const std::vector<std::string> kDtypes = {"fp32", "bf16"};
const std::vector<std::string> kPhases = {"load", "forward", "backward", "step", "save"};

base::Result<std::string> said_by(Trial& trial) {
  launch::ChildCommand command{trial.options().command, {}, {}};
  command.arguments.emplace_back("--moecheck-describe");
  return launch::run_and_read(command, trial.new_folder("d") / "said", trial.options().limit);
}

std::string unknown_among(const char* what, const std::vector<std::string>& said, const std::vector<std::string>& known) {
  for (const std::string& one : said)
    if (std::ranges::find(known, one) == known.end()) return fmt::format("it names {} '{}'; there are {}", what, one, fmt::join(known, ", "));
  return "";
}

std::string mistake_in(const subject::ImplementationInfo& impl) {
  if (impl.name.empty() || impl.name.find_first_of(" =\t") != std::string::npos)
    return fmt::format("an implementation is called '{}'; a name has letters and no blanks or '=', since it stands in the ids of cases", impl.name);
  if (const auto unknown = unknown_among("mesh dimension", impl.mesh_dims, kMeshDims); !unknown.empty()) return impl.name + ": " + unknown;
  if (impl.experts_backends.empty()) return impl.name + " names no experts backend; say \"experts_backends\": [\"eager\"]";
  return "";
}

// Empty if it makes sense.
std::string mistake_in(const subject::Capabilities& c) {
  if (c.name.empty()) return "it has no name";
  if (c.implementations.empty()) return "it names no implementation; a case has to ask for one (impl=NAME)";
  std::set<std::string> names;
  for (const subject::ImplementationInfo& impl : c.implementations) {
    if (auto mistake = mistake_in(impl); !mistake.empty()) return mistake;
    if (!names.insert(impl.name).second) return fmt::format("implementation '{}' is there twice", impl.name);
  }
  if (c.dtypes.empty()) return "it names no dtype; say \"dtypes\": [\"fp32\"]";
  if (auto unknown = unknown_among("dtype", c.dtypes, kDtypes); !unknown.empty()) return unknown;
  if (std::ranges::find(c.phases, "load") == c.phases.end()) return "it does not offer the phase load, with which every case begins";
  return unknown_among("phase", c.phases, kPhases);
}

}  // namespace

ItemResult describe(Trial& trial) {
  const auto said = said_by(trial);
  if (!said)
    return failed(fmt::format("{}; it has to print its capabilities and end with 0 within {} s", said.error().text(),
                              trial.options().limit.count() / 1000));
  const auto json = base::parse_json(*said, "--moecheck-describe");
  if (!json || !json->is_object())
    return failed(fmt::format("stdout is not one JSON object and nothing else ({}); print what else there is to stderr",
                              json ? "another JSON value" : json.error().message));
  auto capabilities = subject::capabilities_from_json(*json);
  if (!capabilities) return failed(capabilities.error().text());
  const std::string mistake = mistake_in(*capabilities);
  std::string summary = fmt::format("{} {}: {} implementations, {}, {}", capabilities->name, capabilities->version,
                                    capabilities->implementations.size(),
                                    fmt::join(capabilities->dtypes, " "), fmt::join(capabilities->phases, " "));
  trial.set_capabilities(*std::move(capabilities));
  if (!mistake.empty()) return failed(mistake);
  const auto again = said_by(trial);
  if (!again) return failed("asked again: " + again.error().text());
  if (*again != *said) return failed("asked twice it says two different things; what it offers may depend on the machine, and not on the moment");
  return ok(std::move(summary));
}

}  // namespace moecheck::conformance
