#include "harness/cli/diff_output.h"

#include <map>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "harness/checkpoint/expert_names.h"
#include "harness/cli/text_table.h"
#include "harness/record/json_numbers.h"

namespace moecheck::cli {
namespace {

using base::Json;
using checkpoint::Diff;
using checkpoint::DifferenceKind;
using checkpoint::ExpertDifference;
using checkpoint::TensorDifference;
using checkpoint::TensorSide;

constexpr DifferenceKind kKinds[] = {DifferenceKind::kMissing, DifferenceKind::kExtra, DifferenceKind::kShape, DifferenceKind::kDType,
                                     DifferenceKind::kValues};

Json side_json(const std::optional<TensorSide>& side) {
  if (!side) return nullptr;
  return {{"dtype", base::safetensors_name(side->dtype)}, {"shape", side->shape}};
}

Json tensor_json(const TensorDifference& one) {
  Json json = {{"name", one.name}, {"kind", checkpoint::kind_name(one.kind)}, {"is_explained", one.is_explained}};
  json["a"] = side_json(one.a);
  json["b"] = side_json(one.b);
  if (!one.figures) return json;
  const checkpoint::Figures& figures = *one.figures;
  json["elements"] = figures.elements;
  json["different"] = figures.different;
  json["first_different"] = figures.first_different;
  json["max_abs"] = record::number_json(figures.max_abs);
  json["relative_l2"] = record::number_json(figures.relative_l2);
  json["max_ulp"] = figures.max_ulp ? Json(*figures.max_ulp) : Json(nullptr);
  return json;
}

Json experts_json(const ExpertDifference& one) {
  Json moves = Json::array();
  for (const checkpoint::ExpertMove& move : one.match.moves)
    moves.push_back({{"a", move.a}, {"b", move.b}, {"count", move.count}, {"is_copy", move.is_copy}, {"is_exact", move.is_exact}});
  return {{"group", one.group}, {"parts", one.parts}, {"is_permutation", one.match.is_permutation}, {"text", match_text(one.match)},
          {"unmatched_b", one.match.unmatched_b}, {"lost_a", one.match.lost_a}, {"moves", std::move(moves)}};
}

std::string side_text(const TensorSide& side) {
  return fmt::format("{} {}", base::safetensors_name(side.dtype), base::shape_text(side.shape));
}

std::string sides_text(const TensorDifference& one) {
  if (!one.a || !one.b) return side_text(one.a ? *one.a : *one.b);
  if (one.kind == DifferenceKind::kValues) return side_text(*one.a);
  return fmt::format("{} -> {}", side_text(*one.a), side_text(*one.b));
}

std::vector<std::string> row_of(const TensorDifference& one, const std::string& name) {
  std::vector<std::string> row = {std::string(checkpoint::kind_name(one.kind)), name, sides_text(one)};
  if (!one.figures) return row;
  row.push_back(fmt::format("{} of {}", one.figures->different, one.figures->elements));
  row.push_back(fmt::format("{:.3g}", one.figures->max_abs));
  row.push_back(fmt::format("{:.3g}", one.figures->relative_l2));
  row.push_back(one.figures->max_ulp ? fmt::format("{}", *one.figures->max_ulp) : "");
  return row;
}

// Rows without figures of one part of one group: nothing is lost if they share one.
struct FoldedRow {
  const TensorDifference* first = nullptr;
  std::optional<checkpoint::ExpertName> expert;
  std::set<std::int64_t> numbers;

  std::string name() const {
    if (!expert || numbers.size() == 1) return first->name;
    return checkpoint::folded_name(first->name, *expert, checkpoint::ranges_text(numbers));
  }
};

std::vector<FoldedRow> folded_rows(const Diff& diff) {
  std::vector<FoldedRow> rows;
  std::map<std::string, std::size_t> known;
  for (const TensorDifference& one : diff.tensors) {
    if (one.is_explained) continue;
    const auto expert = one.figures ? std::nullopt : checkpoint::expert_name(one.name, one.a ? one.a->shape : one.b->shape);
    if (!expert || !expert->expert) {
      rows.push_back({&one, std::nullopt, {}});
      continue;
    }
    const std::string key = fmt::format("{} {} {}", checkpoint::kind_name(one.kind), sides_text(one), checkpoint::folded_name(one.name, *expert, ""));
    const auto [place, is_new] = known.try_emplace(key, rows.size());
    if (is_new) rows.push_back({&one, expert, {}});
    rows[place->second].numbers.insert(*expert->expert);
  }
  return rows;
}

std::string table_text(const Diff& diff) {
  std::vector<std::vector<std::string>> rows = {{"kind", "tensor", "dtype and shape", "different", "max abs", "rel l2", "max ulp"}};
  for (const FoldedRow& row : folded_rows(diff)) rows.push_back(row_of(*row.first, row.name()));
  return rows.size() == 1 ? "" : text_table(rows);
}

// Groups with the same parts that moved alike, a layer each, share a line.
std::string experts_text(const std::vector<ExpertDifference>& experts) {
  std::vector<std::string> order;
  std::map<std::string, std::vector<std::string>> groups;
  for (const ExpertDifference& one : experts) {
    const std::string parts = one.is_whole_group ? "" : fmt::format(" (only {})", fmt::join(one.parts, ", "));
    const std::string what = match_text(one.match) + parts;
    if (!groups.contains(what)) order.push_back(what);
    groups[what].push_back(one.group);
  }
  std::string text;
  for (const std::string& what : order) text += fmt::format("{}: {}\n", fmt::join(groups[what], ", "), what);
  return text;
}

std::string summary_text(const Diff& diff) {
  if (diff.is_equal()) return fmt::format("equal: {} tensors, {} elements\n", diff.num_tensors, diff.num_elements);
  std::string kinds;
  for (const DifferenceKind kind : kKinds)
    if (const auto count = diff.num_of(kind); count > 0) kinds += fmt::format("{}{} {}", kinds.empty() ? "" : ", ", count, checkpoint::kind_name(kind));
  const auto explained = diff.num_explained();
  const std::string moved = explained > 0 ? fmt::format("; {} explained by moved experts", explained) : "";
  return fmt::format("different: {} of {} tensors ({}){}\n", diff.tensors.size(), diff.num_tensors, kinds, moved);
}

}  // namespace

Json diff_json(const Diff& diff, const DiffPaths& paths) {
  Json json = {{"schema", 1}, {"a", paths.a}, {"b", paths.b}, {"is_equal", diff.is_equal()}};
  json["summary"] = {{"tensors", diff.num_tensors}, {"compared", diff.num_compared}, {"elements", diff.num_elements}};
  for (const DifferenceKind kind : kKinds) json["summary"][std::string(checkpoint::kind_name(kind))] = diff.num_of(kind);
  json["summary"]["explained"] = diff.num_explained();
  json["experts"] = Json::array();
  for (const ExpertDifference& one : diff.experts) json["experts"].push_back(experts_json(one));
  json["tensors"] = Json::array();
  for (const TensorDifference& one : diff.tensors) json["tensors"].push_back(tensor_json(one));
  return json;
}

std::string diff_text(const Diff& diff) { return experts_text(diff.experts) + table_text(diff) + summary_text(diff); }

}  // namespace moecheck::cli
