// moecheck schema, moecheck version
#include <cstdio>

#include <fmt/format.h>

#include "harness/cli/commands.h"
#include "harness/driver/pipeline.h"
#include "harness/scenario/schema.h"

namespace moecheck::cli {

void add_schema(CLI::App& app, Action& action) {
  CLI::App* schema = app.add_subcommand("schema", "print the JSON Schema of scenarios, for editors");
  schema->callback([&action] {
    action = [] {
      std::puts(scenario::scenario_schema().dump(2).c_str());
      return static_cast<int>(record::kExitGood);
    };
  });
  CLI::App* version = app.add_subcommand("version", "print the version");
  version->callback([&action] {
    action = [] {
      fmt::print("moecheck {}\n", driver::version());
      return static_cast<int>(record::kExitGood);
    };
  });
}

}  // namespace moecheck::cli
