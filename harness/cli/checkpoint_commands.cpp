// moecheck diff A B, moecheck inspect CKPT
#include <cmath>
#include <cstdio>
#include <memory>

#include <fmt/format.h>

#include "harness/cli/commands.h"
#include "harness/cli/diff_output.h"
#include "harness/cli/inspect_output.h"
#include "harness/cli/run_session.h"

namespace moecheck::cli {
namespace {

// Names in a file may be any bytes.
void print_json(const base::Json& json) { fmt::print("{}\n", json.dump(1, ' ', false, base::Json::error_handler_t::replace)); }

int diff_checkpoints(const DiffPaths& paths, const checkpoint::Equality& equality, bool is_json) {
  if (!(equality.rtol >= 0) || std::isinf(equality.rtol)) return report_error("--rtol needs a number from 0 up, such as 1e-3", record::kExitUsage);
  const auto a = checkpoint::read_checkpoint(paths.a);
  if (!a) return report_error(a.error().text(), record::kExitCouldNotTest);
  const auto b = checkpoint::read_checkpoint(paths.b);
  if (!b) return report_error(b.error().text(), record::kExitCouldNotTest);
  const checkpoint::Diff diff = checkpoint::diff(*a, *b, equality);
  if (diff.num_tensors == 0) return report_error(fmt::format("neither {} nor {} holds a tensor", paths.a, paths.b), record::kExitCouldNotTest);
  if (is_json) {
    print_json(diff_json(diff, paths));
  } else {
    fmt::print("{}", diff_text(diff));
  }
  return diff.is_equal() ? record::kExitGood : record::kExitFailed;
}

int inspect_checkpoint(const std::string& path, bool is_json) {
  auto checkpoint = checkpoint::survey(path);
  if (!checkpoint) return report_error(checkpoint.error().text(), record::kExitCouldNotTest);
  if (auto measured = checkpoint::measure_checksums(*checkpoint); !measured) return report_error(measured.error().text(), record::kExitCouldNotTest);
  if (is_json) {
    print_json(inspect_json(*checkpoint, path));
  } else {
    fmt::print("{}", inspect_text(*checkpoint, path));
  }
  if (checkpoint->problems.empty()) return record::kExitGood;
  return report_error(fmt::format("{}: {}", path, checkpoint->problems[0].text()), record::kExitCouldNotTest);
}

}  // namespace

void add_checkpoints(CLI::App& app, Action& action) {
  auto paths = std::make_shared<DiffPaths>();
  auto path = std::make_shared<std::string>();
  auto equality = std::make_shared<checkpoint::Equality>();
  auto is_json = std::make_shared<bool>(false);
  const std::string forms = "a folder with index.json, with model.safetensors.index.json or with *.safetensors, or one .safetensors file";
  CLI::App* diff = app.add_subcommand("diff", "compare two checkpoints: names, shapes, dtypes, values, moved experts");
  diff->add_option("a", paths->a, forms)->required();
  diff->add_option("b", paths->b, "the other")->required();
  diff->add_flag("--json", *is_json, "as JSON");
  CLI::Option* rtol = diff->add_option("--rtol", equality->rtol, "elements are equal if |a - b| <= RTOL |a|; default: 0");
  diff->add_flag("--bitwise", equality->is_bitwise, "elements are equal if their bytes are")->excludes(rtol);
  diff->callback([&action, paths, equality, is_json] { action = [=] { return diff_checkpoints(*paths, *equality, *is_json); }; });
  CLI::App* inspect = app.add_subcommand("inspect", "what is in a checkpoint, who holds which range and experts, and whether it is whole");
  inspect->add_option("checkpoint", *path, forms)->required();
  inspect->add_flag("--json", *is_json, "as JSON");
  inspect->callback([&action, path, is_json] { action = [=] { return inspect_checkpoint(*path, *is_json); }; });
}

}  // namespace moecheck::cli
