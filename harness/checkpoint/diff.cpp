#include "harness/checkpoint/diff.h"

#include <algorithm>
#include <memory>
#include <set>

#include "harness/checkpoint/expert_names.h"

namespace moecheck::checkpoint {
namespace {

constexpr std::array<std::string_view, 5> kKindNames = {"missing", "extra", "shape", "dtype", "values"};

std::optional<TensorSide> side_of(const Checkpoint& checkpoint, const std::string& name) {
  const auto found = checkpoint.tensors.find(name);
  if (found == checkpoint.tensors.end()) return std::nullopt;
  return TensorSide{found->second.dtype, found->second.shape};
}

std::set<std::string> names_of(const Checkpoint& a, const Checkpoint& b) {
  std::set<std::string> names;
  for (const auto& [name, tensor] : a.tensors) names.insert(name);
  for (const auto& [name, tensor] : b.tensors) names.insert(name);
  return names;
}

// None if they are equal.
std::optional<TensorDifference> compare_sides(TensorDifference one, Diff& result, const Checkpoint& a, const Checkpoint& b, const Equality& equality) {
  const auto of_kind = [&](DifferenceKind kind) {
    one.kind = kind;
    return one;
  };
  if (!one.b) return of_kind(DifferenceKind::kMissing);
  if (!one.a) return of_kind(DifferenceKind::kExtra);
  if (one.a->shape != one.b->shape) return of_kind(DifferenceKind::kShape);
  one.figures = compare(tensor_of(a, one.name), tensor_of(b, one.name), equality);
  ++result.num_compared;
  result.num_elements += one.figures->elements;
  if (one.a->dtype != one.b->dtype) return of_kind(DifferenceKind::kDType);
  if (one.figures->different == 0) return std::nullopt;
  return one;
}

// One part of a group, "gate_proj.weight": the names that hold it, one an expert or one for all.
struct Part {
  std::string group;
  std::string part;
  std::map<std::string, ExpertName> names;
};

using Parts = std::map<std::pair<std::string, std::string>, Part>;

Parts parts_of(const Checkpoint& a, const Checkpoint& b) {
  Parts parts;
  for (const Checkpoint* checkpoint : {&a, &b})
    for (const auto& [name, tensor] : checkpoint->tensors) {
      const auto expert = expert_name(name, tensor.shape);
      if (!expert) continue;
      Part& part = parts[{expert->group, expert->part}];
      part.group = expert->group;
      part.part = expert->part;
      part.names.emplace(name, *expert);
    }
  return parts;
}

TensorsOfExperts unpacked(const base::HostTensor& packed) {
  TensorsOfExperts experts;
  const auto owner = std::make_shared<const base::HostTensor>(packed);
  const base::Shape shape(packed.shape().begin() + 1, packed.shape().end());
  const std::size_t bytes = static_cast<std::size_t>(base::num_elements(shape)) * base::itemsize(packed.dtype());
  for (std::int64_t e = 0; e < packed.dim(0); ++e)
    experts.emplace(e, base::HostTensor(packed.dtype(), shape, owner, owner->bytes().data() + static_cast<std::size_t>(e) * bytes));
  return experts;
}

TensorsOfExperts experts_of(const Checkpoint& checkpoint, const Part& part) {
  TensorsOfExperts experts;
  for (const auto& [name, expert] : part.names) {
    if (!checkpoint.tensors.contains(name)) continue;
    const base::HostTensor tensor = tensor_of(checkpoint, name);
    if (expert.expert) {
      experts.insert_or_assign(*expert.expert, tensor);
    } else {
      experts = unpacked(tensor);
    }
  }
  return experts;
}

// Whether the moves say all about this tensor: where it went, or where it came from.
bool is_explained(const TensorDifference& one, const ExpertName& name, const ExpertMatch& match) {
  if (!name.expert) return match.is_rest_equal && one.a && one.b && one.a->dtype == one.b->dtype;
  if (one.kind == DifferenceKind::kMissing) return match.has_moved_a(*name.expert);
  return match.has_moved_b(*name.expert);
}

void add_to_groups(std::vector<ExpertDifference>& experts, const Part& part, const ExpertMatch& match) {
  const auto fits = [&](const ExpertDifference& one) { return one.group == part.group && one.match == match; };
  const auto found = std::ranges::find_if(experts, fits);
  if (found == experts.end()) {
    experts.push_back({part.group, {part.part}, true, match});
  } else {
    found->parts.push_back(part.part);
  }
}

void recognise_experts(Diff& result, const Checkpoint& a, const Checkpoint& b) {
  std::map<std::string, TensorDifference*> by_name;
  for (TensorDifference& one : result.tensors) by_name.emplace(one.name, &one);
  std::map<std::string, std::size_t> num_parts;
  for (const auto& [key, part] : parts_of(a, b)) {
    ++num_parts[part.group];
    if (std::ranges::none_of(part.names, [&](const auto& entry) { return by_name.contains(entry.first); })) continue;
    const ExpertMatch match = match_experts(experts_of(a, part), experts_of(b, part));
    if (match.moves.empty()) continue;
    add_to_groups(result.experts, part, match);
    for (const auto& [name, expert] : part.names)
      if (const auto one = by_name.find(name); one != by_name.end()) one->second->is_explained = is_explained(*one->second, expert, match);
  }
  for (ExpertDifference& one : result.experts) one.is_whole_group = one.parts.size() == num_parts[one.group];
}

}  // namespace

std::string_view kind_name(DifferenceKind kind) { return kKindNames.at(static_cast<std::size_t>(kind)); }

std::int64_t Diff::num_of(DifferenceKind kind) const { return std::ranges::count(tensors, kind, &TensorDifference::kind); }

std::int64_t Diff::num_explained() const { return std::ranges::count(tensors, true, &TensorDifference::is_explained); }

Diff diff(const Checkpoint& a, const Checkpoint& b, const Equality& equality) {
  Diff result;
  for (const std::string& name : names_of(a, b)) {
    ++result.num_tensors;
    TensorDifference one{name, DifferenceKind::kValues, side_of(a, name), side_of(b, name), {}, false};
    if (auto different = compare_sides(std::move(one), result, a, b, equality)) result.tensors.push_back(*std::move(different));
  }
  std::ranges::stable_sort(result.tensors, {}, &TensorDifference::kind);
  recognise_experts(result, a, b);
  return result;
}

}  // namespace moecheck::checkpoint
