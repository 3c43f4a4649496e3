// The reader on sound and malformed files, and the PyPI package on the same.
#include "tests/unit/trace/safetensors_corpus.h"

#include <cstdlib>
#include <fstream>
#include <set>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "harness/base/files.h"
#include "harness/base/json.h"
#include "harness/trace/safetensors.h"

namespace moecheck::trace {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using Json = nlohmann::json;  // sorted by key, as two dictionaries are compared

base::Result<TensorFile> parse(const std::string& bytes) {
  const auto kept = std::make_shared<const std::string>(bytes);
  return parse_safetensors(std::as_bytes(std::span(*kept)), kept, "x.safetensors");
}

std::string write_again(const TensorFile& file) {
  std::vector<NamedTensor> tensors;
  for (const auto& [name, tensor] : file.tensors) tensors.push_back({name, tensor});
  std::string bytes = safetensors_header(tensors, file.metadata);
  for (const NamedTensor& named : tensors)
    bytes.append(reinterpret_cast<const char*>(named.tensor.bytes().data()), named.tensor.num_bytes());
  return bytes;
}

// All that a file says.
Json content(const TensorFile& file) {
  Json tensors = Json::object();
  for (const auto& [name, tensor] : file.tensors) {
    std::string hex;
    for (const std::byte byte : tensor.bytes()) hex += fmt::format("{:02x}", std::to_integer<int>(byte));
    tensors[name] = {{"dtype", base::safetensors_name(tensor.dtype())}, {"shape", tensor.shape()}, {"bytes", hex}};
  }
  return {{"tensors", tensors}, {"metadata", file.metadata}};
}

TEST(SafetensorsCorpus, HasManyFilesOfDifferentNames) {
  std::set<std::string> names;
  for (const auto& files : {sound_files(), malformed_files()})
    for (const CorpusFile& file : files) EXPECT_TRUE(names.insert(file.name).second) << file.name;
  EXPECT_GE(sound_files().size(), 20U);
  EXPECT_GE(malformed_files().size(), 40U);
}

TEST(SafetensorsCorpus, ReadsEverySoundFile) {
  for (const CorpusFile& file : sound_files()) {
    const auto read = parse(file.bytes);
    EXPECT_TRUE(read) << file.name << ": " << read.error().text();
  }
}

TEST(SafetensorsCorpus, WritesWhatItReadAsTheSame) {
  for (const CorpusFile& file : sound_files()) {
    const TensorFile read = parse(file.bytes).value();
    EXPECT_EQ(content(parse(write_again(read)).value()), content(read)) << file.name;
  }
}

TEST(SafetensorsCorpus, RefusesEveryMalformedFileWithThePlaceAndTheRemedy) {
  for (const CorpusFile& file : malformed_files()) {
    const auto read = parse(file.bytes);
    ASSERT_FALSE(read) << file.name;
    EXPECT_EQ(read.error().code, base::ErrorCode::kDamaged) << file.name;
    EXPECT_EQ(read.error().where, "x.safetensors") << file.name;
    EXPECT_THAT(read.error().message, HasSubstr(file.refusal)) << file.name;
    EXPECT_THAT(read.error().message, testing::AnyOf(HasSubstr("write it again"), HasSubstr("store it as"))) << file.name;
  }
}

TEST(SafetensorsCorpus, AllowsAHeaderUpToTheLimitAndNotOneByteMore) {
  const auto padded = [](std::uint32_t header_bytes) {
    std::string bytes(8, '\0');
    for (std::size_t i = 0; i < 4; ++i) bytes[i] = static_cast<char>(header_bytes >> (8 * i) & 0xFF);
    bytes += "{}";
    bytes.resize(8 + header_bytes, ' ');
    return bytes;
  };
  EXPECT_TRUE(parse(padded(100'000'000)));
  const auto over = parse(padded(100'000'001));
  ASSERT_FALSE(over);
  EXPECT_THAT(over.error().message, HasSubstr("more than the 100000000 that are allowed"));
}

TEST(SafetensorsCorpus, ShowsLongAndUnprintableNamesShortAndEscaped) {
  const std::string header = R"({"\u001b[31m)" + std::string(5000, 'n') + R"(":null})";
  const std::string size_field = {static_cast<char>(header.size() & 0xFF), static_cast<char>(header.size() >> 8), 0, 0, 0, 0, 0, 0};
  const auto read = parse(size_field + header);
  ASSERT_FALSE(read);
  EXPECT_THAT(read.error().message, HasSubstr(R"(tensor '\u001b[31mnnn)"));
  EXPECT_LT(read.error().message.size(), 300U);
}

// Inputs that the reader, or a version of it, once got wrong, from ci/fuzz or from reading: the name says how each must end.
TEST(SafetensorsCorpus, EndsEveryFileThatOnceBrokeTheReaderAsItsNameSays) {
  std::size_t num_files = 0;
  for (const auto& entry : fs::directory_iterator(MOECHECK_SOURCE_DIR "/tests/fuzz/corpus")) {
    const std::string name = entry.path().filename().string();
    const bool is_sound = name.starts_with("sound_");
    ASSERT_TRUE(is_sound || name.starts_with("malformed_")) << name;
    EXPECT_EQ(read_safetensors(entry.path()).ok(), is_sound) << name;
    ++num_files;
  }
  EXPECT_GT(num_files, 0U);
}

// The package that everybody else uses reads every file once; needs what ci/bootstrap installs.
class SafetensorsAgreement : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (!fs::exists(MOECHECK_VENV_PYTHON)) return;
    folder_ = fs::path(testing::TempDir()) / fmt::format("moecheck_corpus_{}", ::getpid());
    fs::create_directories(folder_);
    for (const auto& files : {sound_files(), malformed_files()})
      for (const CorpusFile& file : files)
        ASSERT_TRUE(base::write_file_atomically(folder_ / (file.name + ".safetensors"), file.bytes)) << file.name;
    for (const auto& entry : fs::directory_iterator(MOECHECK_SOURCE_DIR "/tests/fuzz/corpus"))
      fs::copy_file(entry.path(), folder_ / (entry.path().stem().string() + ".safetensors"));
    std::ofstream(folder_ / "read.py") << R"(
import json, pathlib, sys
from safetensors import SafetensorError, deserialize, safe_open
said = {}
for path in pathlib.Path(sys.argv[1]).glob("*.safetensors"):
    try:
        tensors = {name: {"dtype": tensor["dtype"], "shape": tensor["shape"], "bytes": bytes(tensor["data"]).hex()}
                   for name, tensor in deserialize(path.read_bytes())}
        with safe_open(path, framework="numpy") as file:
            said[path.stem] = {"tensors": tensors, "metadata": file.metadata() or {}}
    except SafetensorError as error:
        said[path.stem] = {"refused": str(error)}
pathlib.Path(sys.argv[2]).write_text(json.dumps(said))
)";
    const fs::path said = folder_ / "said.json";
    const std::string command = fmt::format("'{}' '{}' '{}' '{}'", MOECHECK_VENV_PYTHON, (folder_ / "read.py").string(),
                                            folder_.string(), said.string());
    ASSERT_EQ(std::system(command.c_str()), 0);
    package_ = Json::parse(base::read_file(said).value());
  }
  static void TearDownTestSuite() { fs::remove_all(folder_); }

  void SetUp() override {
    if (!fs::exists(MOECHECK_VENV_PYTHON)) GTEST_SKIP() << "no Python environment at " << MOECHECK_VENV_PYTHON << "; run ci/bootstrap";
    ASSERT_THAT(package_, Not(IsEmpty()));
  }

  static bool package_refuses(const std::string& name) { return package_.at(name).contains("refused"); }

  static inline fs::path folder_;
  static inline Json package_;
};

TEST_F(SafetensorsAgreement, BothReadTheSameInEverySoundFile) {
  for (const CorpusFile& file : sound_files()) EXPECT_EQ(package_.at(file.name), content(parse(file.bytes).value())) << file.name;
}

TEST_F(SafetensorsAgreement, ThePackageRefusesEveryMalformedFileButThoseOfTheTable) {
  std::size_t num_stricter = 0;
  for (const CorpusFile& file : malformed_files()) {
    EXPECT_EQ(package_refuses(file.name), file.package.empty()) << file.name << ": " << package_.at(file.name);
    num_stricter += file.package.empty() ? 0 : 1;
  }
  EXPECT_LT(num_stricter, malformed_files().size() / 4);
}

TEST_F(SafetensorsAgreement, ThePackageReadsWhatWeReadOfFilesThatOnceBrokeTheReader) {
  for (const auto& entry : fs::directory_iterator(MOECHECK_SOURCE_DIR "/tests/fuzz/corpus")) {
    const auto read = read_safetensors(entry.path());
    if (!read) continue;  // the package may be less strict
    EXPECT_EQ(package_.at(entry.path().stem().string()), content(*read)) << entry.path();
  }
}

}  // namespace
}  // namespace moecheck::trace
