#include "tests/unit/checkpoint/damages.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "harness/checkpoint/format.h"
#include "harness/trace/safetensors.h"

namespace moecheck::checkpoint {
namespace {

constexpr std::size_t kMostBytes = 64;

std::string any_file(const Saves& saves, Draw& draw) {
  // Every third time the index, which else would be one of many.
  if (draw.below(3) == 0) return saves.index;
  return std::next(saves.good.begin(), static_cast<std::ptrdiff_t>(draw.below(saves.good.size())))->first;
}

std::string any_tensor_file(const Saves& saves, Draw& draw) {
  for (;;)
    if (std::string name = any_file(saves, draw); name != saves.index) return name;
}

// Header and data alike often, however long each is.
std::size_t any_place(const Saves& saves, const std::string& name, Draw& draw) {
  const std::string& bytes = saves.good.at(name);
  const std::size_t structure = size_of_structure(name, bytes);
  if (!saves.is_sealed || structure == bytes.size() || draw.coin()) return draw.below(structure);
  return structure + draw.below(bytes.size() - structure);
}

Damage damage(const Saves& saves, const std::string& file, std::string bytes, const std::string& what) {
  // An index without a checksum is not known to be wrong: what does not fit it is said of the files.
  Damage result{fmt::format("{}: {}", file, what), saves.good, {file}, !saves.is_sealed && file == saves.index};
  result.files[file] = std::move(bytes);
  return result;
}

void flip(std::string& bytes, std::size_t at, Draw& draw) { bytes[at] = static_cast<char>(bytes[at] ^ static_cast<char>(1 + draw.below(255))); }

Damage flip_a_bit(const Saves& saves, Draw& draw) {
  const std::string file = any_file(saves, draw);
  std::string bytes = saves.good.at(file);
  const std::size_t at = any_place(saves, file, draw);
  const std::size_t bit = draw.below(8);
  bytes[at] = static_cast<char>(bytes[at] ^ static_cast<char>(1 << bit));
  return damage(saves, file, std::move(bytes), fmt::format("bit {} of byte {} flipped", bit, at));
}

Damage flip_a_byte(const Saves& saves, Draw& draw) {
  const std::string file = any_file(saves, draw);
  std::string bytes = saves.good.at(file);
  const std::size_t at = any_place(saves, file, draw);
  flip(bytes, at, draw);
  return damage(saves, file, std::move(bytes), fmt::format("byte {} flipped", at));
}

Damage flip_several_bytes(const Saves& saves, Draw& draw) {
  const std::string file = any_file(saves, draw);
  std::string bytes = saves.good.at(file);
  const std::size_t count = 2 + draw.below(kMostBytes);
  for (std::size_t i = 0; i < count; ++i) flip(bytes, any_place(saves, file, draw), draw);
  return damage(saves, file, std::move(bytes), fmt::format("{} bytes flipped", count));
}

Damage zero_a_block(const Saves& saves, Draw& draw) {
  const std::string file = any_file(saves, draw);
  std::string bytes = saves.good.at(file);
  const std::size_t at = any_place(saves, file, draw);
  const std::size_t count = std::min(1 + draw.below(kMostBytes), bytes.size() - at);
  std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), count, '\0');
  return damage(saves, file, std::move(bytes), fmt::format("{} bytes from {} on zeroed", count, at));
}

Damage truncate(const Saves& saves, Draw& draw) {
  const std::string file = any_file(saves, draw);
  const std::string& bytes = saves.good.at(file);
  const std::size_t length = draw.below(8) == 0 ? 0 : draw.below(bytes.size());
  return damage(saves, file, bytes.substr(0, length), fmt::format("cut to {} of {} bytes", length, bytes.size()));
}

Damage append(const Saves& saves, Draw& draw) {
  const std::string file = any_file(saves, draw);
  std::string bytes = saves.good.at(file);
  const std::size_t count = 1 + draw.below(kMostBytes);
  const std::string tail = draw.coin() ? std::string(count, draw.one_of<char>({'\0', ' ', '\n'})) : bytes.substr(0, count);
  return damage(saves, file, bytes + tail, fmt::format("{} bytes appended", tail.size()));
}

Damage tear(const Saves& saves, Draw& draw) {
  const std::string file = any_file(saves, draw);
  const std::string& bytes = saves.good.at(file);
  const std::size_t at = any_place(saves, file, draw);
  const std::string& old = saves.older.at(file);
  const bool is_old = saves.is_sealed && draw.coin();
  const std::string rest = is_old ? old.substr(std::min(at, old.size())) : std::string(bytes.size() - at, '\0');
  return damage(saves, file, bytes.substr(0, at) + rest, fmt::format("torn at byte {}, the rest {}", at, is_old ? "of an older save" : "zeros"));
}

Damage shift(const Saves& saves, Draw& draw) {
  const std::string file = any_file(saves, draw);
  std::string bytes = saves.good.at(file);
  const std::size_t at = any_place(saves, file, draw);
  bytes.insert(at, 1, bytes[at]);
  bytes.pop_back();
  return damage(saves, file, std::move(bytes), fmt::format("shifted by one from byte {} on", at));
}

// A tensor with several elements in a file, and where it lies there.
struct Place {
  std::string file;
  std::string tensor;
  base::DType dtype = base::DType::kF32;
  std::size_t begin = 0;
  std::size_t count = 0;
};

Place any_tensor(const Saves& saves, Draw& draw, bool is_float) {
  for (;;) {
    const std::string file = any_tensor_file(saves, draw);
    const std::string& bytes = saves.good.at(file);
    const auto opened = trace::parse_safetensors(std::as_bytes(std::span(bytes)), nullptr, file).value();
    const auto& [name, tensor] = *std::next(opened.tensors.begin(), static_cast<std::ptrdiff_t>(draw.below(opened.tensors.size())));
    if (tensor.numel() < 2 || (is_float && tensor.dtype() == base::DType::kI64)) continue;
    const auto begin = static_cast<std::size_t>(reinterpret_cast<const char*>(tensor.bytes().data()) - bytes.data());
    return {file, name, tensor.dtype(), begin, static_cast<std::size_t>(tensor.numel())};
  }
}

// One element made another one: 2 x, -x, or its neighbour among the numbers of its type.
Damage change_a_value(const Saves& saves, Draw& draw) {
  const Place place = any_tensor(saves, draw, true);
  std::string bytes = saves.good.at(place.file);
  const std::size_t item = base::itemsize(place.dtype);
  const std::size_t element = draw.below(place.count);
  base::HostTensor one(place.dtype, {1});
  char* const stored = bytes.data() + place.begin + element * item;
  std::memcpy(one.mutable_bytes().data(), stored, item);
  const std::size_t way = draw.below(3);
  if (way == 0) one.set(0, 2 * one.at(0));
  if (way == 1) one.set(0, -one.at(0));
  if (way == 2) one.mutable_bytes()[0] ^= std::byte{1};
  std::memcpy(stored, one.bytes().data(), item);
  constexpr const char* kWays[] = {"doubled", "negated", "moved by one unit"};
  return damage(saves, place.file, std::move(bytes), fmt::format("element {} of {} {}", element, place.tensor, kWays[way]));
}

Damage swap_two_elements(const Saves& saves, Draw& draw) {
  const Place place = any_tensor(saves, draw, false);
  std::string bytes = saves.good.at(place.file);
  const std::size_t item = base::itemsize(place.dtype);
  const std::size_t a = draw.below(place.count);
  const std::size_t b = draw.below(place.count);
  char* const data = bytes.data() + place.begin;
  std::swap_ranges(data + a * item, data + (a + 1) * item, data + b * item);
  return damage(saves, place.file, std::move(bytes), fmt::format("elements {} and {} of {} swapped", a, b, place.tensor));
}

Damage lose_a_file(const Saves& saves, Draw& draw) {
  const std::string file = any_file(saves, draw);
  Damage result{file + " is missing", saves.good, {file}};
  result.files.erase(file);
  return result;
}

Damage copy_over_another(const Saves& saves, Draw& draw) {
  const std::string from = any_tensor_file(saves, draw);
  const std::string to = any_tensor_file(saves, draw);
  return damage(saves, to, saves.good.at(from), "is a copy of " + from);
}

Damage swap_files(const Saves& saves, Draw& draw) {
  const std::string a = any_tensor_file(saves, draw);
  const std::string b = any_tensor_file(saves, draw);
  Damage result{fmt::format("{} and {} swapped", a, b), saves.good, {a, b}};
  std::swap(result.files.at(a), result.files.at(b));
  return result;
}

// Names of the wider save that the good one does not have.
std::string any_wider_file(const Saves& saves, Draw& draw) {
  std::vector<std::string> more;
  for (const auto& [name, bytes] : saves.wider)
    if (!saves.good.contains(name)) more.push_back(name);
  return draw.one_of(more);
}

Damage add_a_copy(const Saves& saves, Draw& draw) {
  const std::string from = any_tensor_file(saves, draw);
  return damage(saves, any_wider_file(saves, draw), saves.good.at(from), "an additional copy of " + from);
}

Damage leave_a_file_of_more(const Saves& saves, Draw& draw) {
  const std::string file = any_wider_file(saves, draw);
  return damage(saves, file, saves.wider.at(file), "left of a save with more files");
}

Damage leave_an_index_of_more(const Saves& saves, Draw&) {
  Damage result = damage(saves, saves.index, saves.wider.at(saves.index), "that of a save with more files");
  result.is_subtle = true;
  return result;
}

Damage leave_an_unfinished_file(const Saves& saves, Draw& draw) {
  const std::string file = any_file(saves, draw);
  const std::string& bytes = saves.good.at(file);
  return damage(saves, file + ".tmp", bytes.substr(0, draw.below(bytes.size() + 1)), "left of a write that did not finish");
}

Damage keep_an_older_file(const Saves& saves, Draw& draw) {
  const std::string file = any_tensor_file(saves, draw);
  return damage(saves, file, saves.older.at(file), "of an older save");
}

Damage keep_an_older_index(const Saves& saves, Draw&) { return damage(saves, saves.index, saves.older.at(saves.index), "of an older save"); }

constexpr DamageKind kByteDamages[] = {{"a bit flipped", flip_a_bit}, {"a byte flipped", flip_a_byte}, {"several bytes flipped", flip_several_bytes},
                                       {"a block zeroed", zero_a_block}, {"truncated", truncate}, {"appended to", append}, {"torn", tear}};
constexpr DamageKind kValueDamages[] = {{"a value changed", change_a_value}, {"two elements swapped", swap_two_elements}, {"shifted", shift},
                                        {"an older file", keep_an_older_file}, {"an older index", keep_an_older_index},
                                        {"an unfinished file", leave_an_unfinished_file}};
constexpr DamageKind kFileDamages[] = {{"a file lost", lose_a_file}, {"a file twice", copy_over_another}, {"files swapped", swap_files},
                                       {"a copy more", add_a_copy}, {"a file left over", leave_a_file_of_more},
                                       {"an index left over", leave_an_index_of_more}};

}  // namespace

std::span<const DamageKind> byte_damages() { return kByteDamages; }
std::span<const DamageKind> value_damages() { return kValueDamages; }
std::span<const DamageKind> file_damages() { return kFileDamages; }

std::size_t size_of_structure(const std::string& name, const std::string& bytes) {
  if (!name.ends_with(".safetensors")) return bytes.size();
  std::uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof header);
  return sizeof header + static_cast<std::size_t>(header);
}

}  // namespace moecheck::checkpoint
