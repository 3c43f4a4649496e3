// Reads scenarios (scenarios/cases/**.yaml) and model families (scenarios/models/<family>.yaml).
//
// Errors of all: kUsage at "path:line:column" with an excerpt, what was expected and a did-you-mean; kIo for an unreadable file.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "harness/base/result.h"
#include "harness/cases/case.h"
#include "harness/model/model_spec.h"
#include "harness/scenario/scenario.h"
#include "harness/scenario/yaml_reader.h"

namespace moecheck::scenario {

// `scenarios_dir` only shortens the name; a scenario outside of it is named by its path.
base::Result<Scenario> load_scenario(const std::filesystem::path& path, const std::filesystem::path& scenarios_dir);
base::Result<Scenario> scenario_of(YamlDocument document, std::string name);

// The value of a key `cover`, of a scenario or a suite.
base::Result<Cover> cover_of(const Source& source, const YamlNode& node);

// "cases/ep/tiny" for scenarios/cases/ep/tiny.yaml.
std::string scenario_name(const std::filesystem::path& path, const std::filesystem::path& scenarios_dir);

// Errors: kUsage also for a family without a file; the nearest family is named.
base::Result<model::ModelSpec> load_family(const std::filesystem::path& models_dir, std::string_view family);
base::Result<model::ModelSpec> family_of(const YamlDocument& document);

// Reads each family once, on first use; a family that fails is read again. Not thread-safe; copies share what was read.
cases::FamilyLoader family_loader(std::filesystem::path models_dir);

}  // namespace moecheck::scenario
