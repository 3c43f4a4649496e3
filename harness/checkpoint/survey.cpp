#include "harness/checkpoint/survey.h"

#include <algorithm>
#include <array>
#include <regex>

#include <fmt/format.h>

#include "harness/checkpoint/checksum.h"

namespace moecheck::checkpoint {

namespace fs = std::filesystem;

namespace {

using base::Error;
using base::ErrorCode;

constexpr std::string_view kTensorFile = ".safetensors";
constexpr std::string_view kIndexEnding = ".safetensors.index.json";
constexpr std::size_t kProblemsTold = 5;

constexpr std::array<std::string_view, 4> kFormNames = {"sharded", "indexed", "folder", "file"};

Error nothing_at(const fs::path& path, std::string_view why) { return {ErrorCode::kIo, std::string(why), path.string()}; }

// "model-00002-of-00003.safetensors" promises two others.
void check_series(Checkpoint& checkpoint) {
  static const std::regex numbered(R"((.*-)(\d{1,9})(-of-)(\d{1,9})(\.safetensors))");
  std::set<std::string> expected;
  for (const StoredFile& file : checkpoint.files) {
    std::smatch part;
    if (!std::regex_match(file.name, part, numbered) || part[2].length() != part[4].length()) continue;
    const auto width = static_cast<std::size_t>(part[4].length());
    const long count = std::stol(part[4]);
    // A file that claims to be one of a billion is not worth a list of the others.
    if (count > static_cast<long>(checkpoint.files.size()) * 1000) continue;
    for (long n = 1; n <= count; ++n)
      expected.insert(fmt::format("{}{:0{}}{}{}{}", part[1].str(), n, width, part[3].str(), part[4].str(), part[5].str()));
  }
  for (const std::string& name : expected)
    if (find_file(checkpoint, name) == nullptr) checkpoint.problems.push_back({name, "", "is not there, though the others count it"});
}

bool is_rank_file(const trace::TensorFile& file) {
  const auto format = file.metadata.find("format");
  return format != file.metadata.end() && format->second == kShardedFormat;
}

base::Result<Checkpoint> survey_one_file(const fs::path& path) {
  Checkpoint checkpoint;
  checkpoint.form = Form::kFile;
  checkpoint.folder = path.parent_path();
  open_file(checkpoint, path.filename().string());
  take_whole_tensors(checkpoint);
  return checkpoint;
}

base::Result<Checkpoint> survey_any_folder(const fs::path& folder) {
  Checkpoint checkpoint;
  checkpoint.folder = folder;
  if (fs::exists(folder / kIndexFile)) {
    survey_sharded(checkpoint);
    return checkpoint;
  }
  const std::vector<std::string> indices = files_ending(folder, kIndexEnding);
  if (indices.size() > 1) return nothing_at(folder, fmt::format("has two indices, {} and {}; name one of them", indices[0], indices[1]));
  if (indices.size() == 1) {
    survey_indexed(checkpoint, indices[0]);
    return checkpoint;
  }
  if (files_ending(folder, kTensorFile).empty()) return nothing_at(folder, "holds no .safetensors file and no index");
  survey_folder(checkpoint);
  return checkpoint;
}

}  // namespace

std::string_view form_name(Form form) { return kFormNames.at(static_cast<std::size_t>(form)); }

std::vector<std::string> files_ending(const fs::path& folder, std::string_view ending) {
  std::vector<std::string> names;
  std::error_code code;
  for (fs::directory_iterator entry(folder, code), end; !code && entry != end; entry.increment(code)) {
    const std::string name = entry->path().filename().string();
    if (name.ends_with(ending) && !entry->is_directory()) names.push_back(name);
  }
  std::ranges::sort(names);
  return names;
}

const StoredFile* find_file(const Checkpoint& checkpoint, const std::string& name) {
  const auto found = std::ranges::find(checkpoint.files, name, &StoredFile::name);
  return found == checkpoint.files.end() ? nullptr : &*found;
}

std::shared_ptr<const base::MappedFile> open_file(Checkpoint& checkpoint, const std::string& name) {
  const fs::path path = checkpoint.folder / name;
  const auto mapped = base::map_file(path);
  checkpoint.files.push_back({name, mapped ? (*mapped)->size : 0, ""});
  if (!mapped) {
    checkpoint.problems.push_back({name, "", mapped.error().message});
    return nullptr;
  }
  auto file = trace::parse_safetensors({(*mapped)->data, (*mapped)->size}, *mapped, path.string());
  if (!file) {
    checkpoint.problems.push_back({name, "", file.error().message});
    return nullptr;
  }
  checkpoint.opened.emplace(name, *std::move(file));
  return *mapped;
}

void take_whole_tensors(Checkpoint& checkpoint) {
  for (const auto& [file, opened] : checkpoint.opened)
    for (const auto& [name, tensor] : opened.tensors) {
      const auto [place, is_new] =
          checkpoint.tensors.try_emplace(name, ShardedTensor{tensor.dtype(), tensor.shape(), {{file, name, whole(tensor.shape()), 0}}});
      if (is_new) continue;
      const std::string& other = place->second.shards[0].file;
      checkpoint.problems.push_back({file, name, fmt::format("is in {} too, and no index says which of them counts", other)});
    }
}

void survey_folder(Checkpoint& checkpoint) {
  checkpoint.form = Form::kFolder;
  for (const std::string& name : files_ending(checkpoint.folder, kTensorFile)) open_file(checkpoint, name);
  check_series(checkpoint);
  // One rank's file alone would pass for a whole checkpoint, if its tensors are cut along no other name.
  if (std::ranges::any_of(checkpoint.opened, [](const auto& file) { return is_rank_file(file.second); }))
    checkpoint.problems.push_back({kIndexFile, "", "is not there, and the files are those of ranks: a save that did not finish"});
  take_whole_tensors(checkpoint);
}

base::Result<Checkpoint> survey(const fs::path& path) {
  std::error_code code;
  const fs::file_status status = fs::status(path, code);
  if (!fs::exists(status)) return nothing_at(path, "is not there");
  if (fs::is_directory(status)) return survey_any_folder(path);
  const std::string name = path.filename().string();
  if (name.ends_with(kTensorFile)) return survey_one_file(path);
  Checkpoint checkpoint;
  checkpoint.folder = path.parent_path();
  if (name == kIndexFile) {
    survey_sharded(checkpoint);
  } else if (name.ends_with(kIndexEnding)) {
    survey_indexed(checkpoint, name);
  } else {
    return nothing_at(path, "is no folder, no .safetensors file and no index of some");
  }
  return checkpoint;
}

base::Result<Checkpoint> read_checkpoint(const fs::path& path) {
  auto checkpoint = survey(path);
  if (!checkpoint || checkpoint->problems.empty()) return checkpoint;
  const Problems& problems = checkpoint->problems;
  std::string message;
  for (std::size_t i = 0; i < std::min(problems.size(), kProblemsTold); ++i)
    message += (i == 0 ? "" : "; ") + problems[i].text();
  if (problems.size() > kProblemsTold) message += fmt::format("; and {} more, see moecheck inspect", problems.size() - kProblemsTold);
  return Error{ErrorCode::kDamaged, message, path.string()};
}

base::Status measure_checksums(Checkpoint& checkpoint) {
  for (StoredFile& file : checkpoint.files) {
    if (!file.checksum.empty()) continue;
    auto sum = checksum_of_file(checkpoint.folder / file.name);
    if (!sum) return sum.error();
    file.checksum = *std::move(sum);
  }
  return base::Ok{};
}

base::HostTensor box_of(const Checkpoint& checkpoint, const std::string& name, const Box& box) {
  const ShardedTensor& tensor = checkpoint.tensors.at(name);
  MOECHECK_REQUIRE(is_inside(box, tensor.shape), name + " " + box_text(box));
  const auto part_of = [&](const Shard& shard) -> const base::HostTensor& { return checkpoint.opened.at(shard.file).tensors.at(shard.key); };
  for (const Shard& shard : tensor.shards)
    if (shard.box == box) return part_of(shard);
  base::HostTensor part(tensor.dtype, box.shape);
  for (const Shard& shard : tensor.shards)
    if (shard.replica == 0) copy_common(part, box, part_of(shard), shard.box);
  return part;
}

base::HostTensor tensor_of(const Checkpoint& checkpoint, const std::string& name) {
  return box_of(checkpoint, name, whole(checkpoint.tensors.at(name).shape));
}

}  // namespace moecheck::checkpoint
