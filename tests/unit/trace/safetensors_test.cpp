#include "harness/trace/safetensors.h"

#include <cstdlib>
#include <cstring>
#include <fstream>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "harness/base/files.h"

namespace moecheck::trace {
namespace {

using base::DType;
using base::HostTensor;
using testing::HasSubstr;

class Safetensors : public testing::Test {
 protected:
  Safetensors() : folder_(std::filesystem::path(testing::TempDir()) / ("moecheck_trace_" + std::to_string(::getpid()))) {
    std::filesystem::create_directories(folder_);
  }
  ~Safetensors() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path path() const { return folder_ / "x.safetensors"; }

  void write_bytes(const std::string& bytes) const { ASSERT_TRUE(base::write_file_atomically(path(), bytes)); }

  // A file with this header and so many bytes of data.
  void write_file(const std::string& header, std::size_t data_bytes) const {
    const std::uint64_t size = header.size();
    std::string bytes(sizeof size, '\0');
    std::memcpy(bytes.data(), &size, sizeof size);
    write_bytes(bytes + header + std::string(data_bytes, '\1'));
  }

  void expect_damaged(const std::string& why) const {
    const auto file = read_safetensors(path());
    ASSERT_FALSE(file) << "accepted; expected: " << why;
    EXPECT_EQ(file.error().code, base::ErrorCode::kDamaged);
    EXPECT_EQ(file.error().where, path().string());
    EXPECT_THAT(file.error().message, HasSubstr(why));
  }

  std::filesystem::path folder_;
};

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape, std::uint64_t begin, std::uint64_t end) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})", name, dtype, shape, begin, end);
}

const DType kAllDTypes[] = {DType::kF32, DType::kF64, DType::kBF16, DType::kF16, DType::kI64, DType::kI32, DType::kU8, DType::kBool};

// 2 x 3 with values that each dtype holds.
HostTensor sample(DType dtype) {
  HostTensor tensor(dtype, {2, 3});
  for (std::int64_t i = 0; i < 6; ++i) tensor.set(i, dtype == DType::kBool ? static_cast<double>(i % 2) : static_cast<double>(i * 5));
  return tensor;
}

TEST_F(Safetensors, RoundTripsEveryDtypeWithMetadata) {
  std::vector<NamedTensor> tensors;
  for (const DType dtype : kAllDTypes) tensors.push_back({std::string(base::knob_name(dtype)), sample(dtype)});
  tensors.push_back({"empty", HostTensor(DType::kF32, {0, 4})});
  tensors.push_back({"scalar", HostTensor(DType::kF64, {})});
  ASSERT_TRUE(write_safetensors(path(), tensors, {{"key", "value \"quoted\" \n"}}));
  const TensorFile file = read_safetensors(path()).value();
  EXPECT_EQ(file.tensors.size(), tensors.size());
  for (const NamedTensor& named : tensors) EXPECT_TRUE(base::same_bytes(file.tensors.at(named.name), named.tensor)) << named.name;
  EXPECT_EQ(file.metadata, (std::map<std::string, std::string>{{"key", "value \"quoted\" \n"}}));
}

TEST_F(Safetensors, TensorsOutliveTheFileAndItsMap) {
  ASSERT_TRUE(write_safetensors(path(), {{"t", sample(DType::kF32)}}, {}));
  HostTensor kept = read_safetensors(path()).value().tensors.at("t");
  std::filesystem::remove(path());
  EXPECT_TRUE(base::same_bytes(kept, sample(DType::kF32)));
}

TEST_F(Safetensors, AcceptsAFileWithoutTensors) {
  ASSERT_TRUE(write_safetensors(path(), {}, {}));
  EXPECT_TRUE(read_safetensors(path()).value().tensors.empty());
}

TEST_F(Safetensors, AcceptsTensorsInAnotherOrderThanTheirData) {
  write_file("{" + entry("a", "F32", "[1]", 4, 8) + "," + entry("b", "F32", "[1]", 0, 4) + "}", 8);
  EXPECT_TRUE(read_safetensors(path()));
}

TEST_F(Safetensors, RefusesAFileThatIsNotThere) {
  const auto file = read_safetensors(path());
  ASSERT_FALSE(file);
  EXPECT_EQ(file.error().code, base::ErrorCode::kIo);
}

TEST_F(Safetensors, RefusesAnEmptyFile) {
  write_bytes("");
  expect_damaged("0 bytes are too few");
}

TEST_F(Safetensors, RefusesAFileShorterThanItsSizeField) {
  write_bytes("1234567");
  expect_damaged("7 bytes are too few");
}

TEST_F(Safetensors, RefusesAHeaderLongerThanTheFile) {
  write_bytes(std::string("\x10\0\0\0\0\0\0\0{}", 10));
  expect_damaged("header claims 16 bytes");
}

TEST_F(Safetensors, RefusesAHugeHeader) {
  write_bytes(std::string(8, '\xFF') + "{}");
  expect_damaged("header claims 18446744073709551615 bytes");
}

TEST_F(Safetensors, RefusesAFileTruncatedAtAnyByte) {
  ASSERT_TRUE(write_safetensors(path(), {{"a", sample(DType::kF32)}, {"b", sample(DType::kBF16)}}, {{"k", "v"}}));
  const std::string whole = base::read_file(path()).value();
  for (std::size_t size = 0; size < whole.size(); ++size) {
    write_bytes(whole.substr(0, size));
    const auto file = read_safetensors(path());
    ASSERT_FALSE(file) << size;
    EXPECT_EQ(file.error().code, base::ErrorCode::kDamaged) << size;
  }
}

TEST_F(Safetensors, SaysThatATruncatedFileIsTruncated) {
  write_file("{" + entry("a", "F32", "[2]", 0, 8) + "}", 7);
  expect_damaged("truncated");
}

TEST_F(Safetensors, RefusesTrailingBytes) {
  write_file("{" + entry("a", "F32", "[2]", 0, 8) + "}", 9);
  expect_damaged("promises 8 bytes of data, the file has 9");
}

TEST_F(Safetensors, RefusesAGap) {
  write_file("{" + entry("a", "F32", "[1]", 0, 4) + "," + entry("b", "F32", "[1]", 8, 12) + "}", 12);
  expect_damaged("tensor 'b': begins at byte 8, expected 4");
}

TEST_F(Safetensors, RefusesAnOverlap) {
  write_file("{" + entry("a", "F32", "[2]", 0, 8) + "," + entry("b", "F32", "[2]", 4, 12) + "}", 12);
  expect_damaged("tensor 'b': begins at byte 4, expected 8");
}

TEST_F(Safetensors, RefusesTwoTensorsOfOneName) {
  write_file("{" + entry("a", "F32", "[1]", 0, 4) + "," + entry("a", "F32", "[1]", 4, 8) + "}", 8);
  expect_damaged("header names 'a' twice");
}

TEST_F(Safetensors, RefusesAKeyTwiceInsideAnEntry) {
  write_file(R"({"a":{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}})", 4);
  expect_damaged("'dtype' twice");
}

TEST_F(Safetensors, RefusesUnknownDtypes) {
  write_file("{" + entry("a", "F8_E4M3", "[4]", 0, 4) + "}", 4);
  expect_damaged(R"(tensor 'a': dtype "F8_E4M3" is not supported)");
}

TEST_F(Safetensors, RefusesASizeThatDoesNotFitTheShape) {
  write_file("{" + entry("a", "F32", "[3]", 0, 8) + "}", 8);
  expect_damaged("which is 12 bytes");
}

TEST_F(Safetensors, RefusesOffsetsThatRunBackwards) {
  write_file("{" + entry("a", "F32", "[1]", 4, 0) + "}", 4);
  expect_damaged("tensor 'a'");
}

TEST_F(Safetensors, RefusesShapesWhoseSizeOverflows) {
  for (const char* shape : {"[4294967296,4294967296]", "[9223372036854775807,2]", "[18446744073709551615]", "[4611686018427387904]"}) {
    write_file("{" + entry("a", "F32", shape, 0, 0) + "}", 0);
    expect_damaged("shape is too large");
  }
}

TEST_F(Safetensors, RefusesShapesAndOffsetsThatAreNoWholeNumbers) {
  for (const char* shape : {"[-1]", "[1.0]", "[\"1\"]", "[null]", "1", "{}"}) {
    write_file("{" + entry("a", "F32", shape, 0, 4) + "}", 4);
    expect_damaged("shape");
  }
  for (const char* offsets : {"[0]", "[0,4,4]", "[-4,0]", "[0,4.0]", "4"}) {
    write_file(fmt::format(R"({{"a":{{"dtype":"F32","shape":[1],"data_offsets":{}}}}})", offsets), 4);
    expect_damaged("data_offsets");
  }
}

TEST_F(Safetensors, RefusesHeadersThatAreNotWhatTheyShouldBe) {
  const std::vector<std::pair<std::string, std::string>> headers = {
      {"not json", "does not begin with '{'"},
      {"[]", "does not begin with '{'"},
      {"{} trailing", "not valid JSON"},
      {R"({"a":[]})", "needs exactly"},
      {R"({"a":{"dtype":"F32","shape":[]}})", "needs exactly"},
      {R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,4],"more":1}})", "needs exactly"},
      {R"({"a":{"dtype":3,"shape":[],"data_offsets":[0,4]}})", "dtype is not a string"},
      {R"({"__metadata__":[]})", "__metadata__ is not an object"},
      {R"({"__metadata__":{"a":1}})", "__metadata__.a is not a string"}};
  for (const auto& [header, why] : headers) {
    write_file(header, 0);
    expect_damaged(why);
  }
}

TEST_F(Safetensors, SurvivesEveryFlippedByteOfTheHeader) {
  ASSERT_TRUE(write_safetensors(path(), {{"a", sample(DType::kF32)}, {"b", sample(DType::kI64)}}, {{"k", "v"}}));
  const std::string whole = base::read_file(path()).value();
  const std::size_t header_end = whole.size() - 24 - 48;
  std::size_t num_refused = 0;
  for (std::size_t at = 0; at < header_end; ++at)
    for (const char flip : {'\x01', '\x20', '\x80'}) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ flip);
      write_bytes(damaged);
      num_refused += read_safetensors(path()).ok() ? 0 : 1;
    }
  EXPECT_GT(num_refused, header_end);  // names and metadata may change without being noticed; the structure may not
}

TEST_F(Safetensors, DoNotAppearWhenTheirFolderIsMissing) {
  const auto written = write_safetensors(folder_ / "none" / "x.safetensors", {{"a", sample(DType::kF32)}}, {});
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().code, base::ErrorCode::kIo);
}

TEST(SafetensorsDeathTest, AbortsOnTwoTensorsOfOneName) {
  EXPECT_DEATH((void)write_safetensors("unused", {{"a", sample(DType::kF32)}, {"a", sample(DType::kF32)}}, {}), "internal error");
}

// The package that everybody else uses, if the Python environment is there.
class SafetensorsPackage : public Safetensors {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(MOECHECK_VENV_PYTHON)) GTEST_SKIP() << "no Python environment at " << MOECHECK_VENV_PYTHON;
    if (std::system(MOECHECK_VENV_PYTHON " -c 'import numpy, safetensors.numpy' 2>/dev/null") != 0)
      GTEST_SKIP() << "the Python environment has no numpy and safetensors";
  }

  int run_python(const std::string& script, const std::vector<std::filesystem::path>& arguments) const {
    const auto script_path = folder_ / "script.py";
    std::ofstream(script_path) << script;
    std::string command = fmt::format("'{}' '{}'", MOECHECK_VENV_PYTHON, script_path.string());
    for (const auto& argument : arguments) command += fmt::format(" '{}'", argument.string());
    return std::system(command.c_str());
  }
};

TEST_F(SafetensorsPackage, ReadsOurFiles) {
  std::vector<NamedTensor> tensors;
  for (const DType dtype : kAllDTypes)
    if (dtype != DType::kBF16) tensors.push_back({std::string(base::safetensors_name(dtype)), sample(dtype)});  // numpy has no bf16
  tensors.push_back({"empty", HostTensor(DType::kF32, {0, 4})});
  ASSERT_TRUE(write_safetensors(path(), tensors, {{"k", "v"}}));
  EXPECT_EQ(run_python(R"(
import sys, numpy
from safetensors import safe_open
types = {"F32": numpy.float32, "F64": numpy.float64, "F16": numpy.float16, "I64": numpy.int64, "I32": numpy.int32, "U8": numpy.uint8,
         "BOOL": numpy.bool_}
with safe_open(sys.argv[1], framework="numpy") as file:
    assert file.metadata() == {"k": "v"}, file.metadata()
    assert sorted(file.keys()) == sorted([*types, "empty"]), file.keys()
    assert file.get_tensor("empty").shape == (0, 4)
    for name, dtype in types.items():
        tensor = file.get_tensor(name)
        assert tensor.dtype == dtype and tensor.shape == (2, 3), (name, tensor)
        expected = [0, 1, 0, 1, 0, 1] if name == "BOOL" else [0, 5, 10, 15, 20, 25]
        assert tensor.astype(float).ravel().tolist() == expected, (name, tensor)
)", {path()}), 0);
}

TEST_F(SafetensorsPackage, AcceptsOurBf16) {
  ASSERT_TRUE(write_safetensors(path(), {{"b", sample(DType::kBF16)}}, {}));
  EXPECT_EQ(run_python(R"(
import sys
from safetensors import safe_open, deserialize
raw = dict(deserialize(open(sys.argv[1], "rb").read()))["b"]
assert raw["dtype"] == "BF16" and raw["shape"] == [2, 3], raw
assert bytes(raw["data"])[2:4] == b"\xa0\x40", raw  # 5.0
)", {path()}), 0);
}

TEST_F(SafetensorsPackage, WritesFilesThatWeRead) {
  ASSERT_EQ(run_python(R"(
import sys, numpy
from safetensors.numpy import save_file
types = {"F32": numpy.float32, "F64": numpy.float64, "F16": numpy.float16, "I64": numpy.int64, "I32": numpy.int32, "U8": numpy.uint8}
tensors = {name: (numpy.arange(6) * 5).reshape(2, 3).astype(dtype) for name, dtype in types.items()}
tensors["BOOL"] = (numpy.arange(6) % 2).reshape(2, 3).astype(bool)
tensors["empty"] = numpy.zeros((0, 4), numpy.float32)
save_file(tensors, sys.argv[1], {"k": "v"})
)", {path()}), 0);
  const TensorFile file = read_safetensors(path()).value();
  EXPECT_EQ(file.tensors.size(), 8U);
  EXPECT_EQ(file.metadata.at("k"), "v");
  EXPECT_EQ(file.tensors.at("empty").shape(), (base::Shape{0, 4}));
  for (const DType dtype : kAllDTypes) {
    if (dtype == DType::kBF16) continue;
    EXPECT_TRUE(base::same_bytes(file.tensors.at(std::string(base::safetensors_name(dtype))), sample(dtype))) << base::knob_name(dtype);
  }
}

}  // namespace
}  // namespace moecheck::trace
