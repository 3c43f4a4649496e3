#include "harness/model/mesh.h"

#include <algorithm>
#include <charconv>

#include <fmt/format.h>

#include "harness/base/nearest_name.h"

namespace moecheck::model {
namespace {

constexpr Dim kMaxRanks = 64;

const std::vector<std::string>& known_dims() {
  static const std::vector<std::string> names = {"dp", "fsdp", "ep", "tp"};
  return names;
}

base::Error usage(std::string message) { return {base::ErrorCode::kUsage, std::move(message), ""}; }

std::vector<std::string_view> split_names(std::string_view names) {
  std::vector<std::string_view> parts;
  while (true) {
    const auto comma = names.find(',');
    parts.push_back(names.substr(0, comma));
    if (comma == std::string_view::npos) return parts;
    names.remove_prefix(comma + 1);
  }
}

base::Result<MeshDim> parse_dim(std::string_view part) {
  const auto equals = part.find('=');
  if (equals == std::string_view::npos)
    return usage(fmt::format("mesh dimension '{}' has no size; write it as ep=2, several as dp=2,ep=2", part));
  MeshDim dim{std::string(part.substr(0, equals)), 0};
  if (std::ranges::find(known_dims(), dim.name) == known_dims().end())
    return usage(fmt::format("unknown mesh dimension '{}'{}", dim.name, base::suggestion(dim.name, known_dims())));
  const std::string_view digits = part.substr(equals + 1);
  const auto [end, code] = std::from_chars(digits.data(), digits.data() + digits.size(), dim.size);
  if (code != std::errc{} || end != digits.data() + digits.size() || dim.size < 1 || dim.size > kMaxRanks)
    return usage(fmt::format("size '{}' of mesh dimension {} is not a number from 1 to {}", digits, dim.name, kMaxRanks));
  return dim;
}

}  // namespace

base::Result<Mesh> Mesh::parse(std::string_view text) {
  if (text == "none") return Mesh{};
  std::vector<MeshDim> dims;
  while (true) {
    const auto comma = text.find(',');
    auto dim = parse_dim(text.substr(0, comma));
    if (!dim) return dim.error();
    for (const MeshDim& earlier : dims)
      if (earlier.name == dim->name) return usage(fmt::format("mesh names dimension {} twice", dim->name));
    dims.push_back(*dim);
    if (comma == std::string_view::npos) break;
    text.remove_prefix(comma + 1);
  }
  Mesh mesh(std::move(dims));
  if (mesh.world_size() > kMaxRanks)
    return usage(fmt::format("mesh {} needs {} ranks; at most {} are supported", mesh.text(), mesh.world_size(), kMaxRanks));
  return mesh;
}

std::string Mesh::text() const {
  if (dims_.empty()) return "none";
  std::string out;
  for (const MeshDim& dim : dims_) out += fmt::format("{}{}={}", out.empty() ? "" : ",", dim.name, dim.size);
  return out;
}

Dim Mesh::world_size() const {
  Dim ranks = 1;
  for (const MeshDim& dim : dims_) ranks *= dim.size;
  return ranks;
}

Dim Mesh::size(std::string_view names) const {
  Dim size = 1;
  for (const std::string_view name : split_names(names))
    for (const MeshDim& dim : dims_)
      if (dim.name == name) size *= dim.size;
  return size;
}

bool Mesh::has(std::string_view name) const {
  return std::ranges::any_of(dims_, [&](const MeshDim& dim) { return dim.name == name; });
}

Dim Mesh::coordinate(Dim rank, std::string_view names) const {
  Dim flat = 0;
  for (const std::string_view name : split_names(names)) {
    Dim stride = world_size();
    for (const MeshDim& dim : dims_) {
      stride /= dim.size;
      if (dim.name == name) flat = flat * dim.size + (rank / stride) % dim.size;
    }
  }
  return flat;
}

std::vector<Dim> Mesh::group(Dim rank, std::string_view names) const {
  const std::vector<std::string_view> free = split_names(names);
  std::vector<Dim> ranks;
  for (Dim other = 0; other < world_size(); ++other) {
    const bool same_elsewhere = std::ranges::all_of(dims_, [&](const MeshDim& dim) {
      return std::ranges::find(free, dim.name) != free.end() || coordinate(other, dim.name) == coordinate(rank, dim.name);
    });
    if (same_elsewhere) ranks.push_back(other);
  }
  std::ranges::sort(ranks, {}, [&](Dim other) { return coordinate(other, names); });
  return ranks;
}

}  // namespace moecheck::model
