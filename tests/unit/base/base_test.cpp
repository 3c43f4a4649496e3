#include <csignal>
#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness/base/files.h"
#include "harness/base/host_tensor.h"
#include "harness/base/json.h"
#include "harness/base/nearest_name.h"

namespace moecheck::base {
namespace {

using testing::HasSubstr;

class Files : public testing::Test {
 protected:
  Files() : folder_(std::filesystem::path(testing::TempDir()) / ("moecheck_base_" + std::to_string(::getpid()))) {
    std::filesystem::create_directories(folder_);
  }
  ~Files() override { std::filesystem::remove_all(folder_); }

  std::size_t num_entries() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(folder_), std::filesystem::directory_iterator()));
  }

  std::filesystem::path folder_;
};

TEST_F(Files, WriteAndReadBackEveryByteOfAllParts) {
  const std::string zeros("a\0b\xFF", 4);
  const std::string_view parts[] = {"head", "", zeros};
  ASSERT_TRUE(write_file_atomically(folder_ / "x", parts));
  EXPECT_EQ(read_file(folder_ / "x").value(), "head" + zeros);
  EXPECT_EQ(num_entries(), 1U);
}

TEST_F(Files, ReplaceAnExistingFile) {
  ASSERT_TRUE(write_file_atomically(folder_ / "x", "a long first content"));
  ASSERT_TRUE(write_file_atomically(folder_ / "x", "short"));
  EXPECT_EQ(read_file(folder_ / "x").value(), "short");
}

TEST_F(Files, SayWhatIsMissing) {
  const auto result = read_file(folder_ / "absent");
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::kIo);
  EXPECT_THAT(result.error().text(), testing::AllOf(HasSubstr("absent"), HasSubstr("No such file")));
  EXPECT_FALSE(map_file(folder_ / "absent"));
  EXPECT_FALSE(write_file_atomically(folder_ / "no_folder" / "x", "content"));
}

// A limit on file sizes stands in for a full disk: write() fails in the middle of the content.
int write_with_size_limit(const std::filesystem::path& path, const std::string& content) {
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{4096, 4096};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) ::_exit(2);
    const auto written = write_file_atomically(path, content);
    ::_exit(written.ok() ? 0 : (written.error().code == ErrorCode::kIo && written.error().where == path.string() ? 1 : 3));
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_F(Files, LeaveNothingBehindOnAFullDisk) {
  EXPECT_EQ(write_with_size_limit(folder_ / "x", std::string(100'000, 'x')), 1);
  EXPECT_EQ(num_entries(), 0U);
  EXPECT_EQ(write_with_size_limit(folder_ / "x", "fits"), 0);
}

TEST_F(Files, KeepTheOldContentOnAFullDisk) {
  ASSERT_TRUE(write_file_atomically(folder_ / "x", "old"));
  EXPECT_EQ(write_with_size_limit(folder_ / "x", std::string(100'000, 'x')), 1);
  EXPECT_EQ(read_file(folder_ / "x").value(), "old");
  EXPECT_EQ(num_entries(), 1U);
}

TEST_F(Files, MapWhatWasWrittenAndOutliveItsRemoval) {
  ASSERT_TRUE(write_file_atomically(folder_ / "x", "mapped"));
  const auto mapped = map_file(folder_ / "x").value();
  std::filesystem::remove(folder_ / "x");
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(mapped->data), mapped->size), "mapped");
}

TEST_F(Files, MapAnEmptyFileAsNothing) {
  ASSERT_TRUE(write_file_atomically(folder_ / "x", ""));
  EXPECT_EQ(map_file(folder_ / "x").value()->size, 0U);
}

TEST_F(Files, MakeFoldersOnTheWayAndRefuseAFileInTheWay) {
  EXPECT_TRUE(make_folders(folder_ / "a" / "b"));
  EXPECT_TRUE(make_folders(folder_ / "a" / "b"));
  ASSERT_TRUE(write_file_atomically(folder_ / "file", ""));
  EXPECT_FALSE(make_folders(folder_ / "file" / "below"));
}

TEST(Result, HoldsAValueOrAnError) {
  const Result<int> good = 3;
  const Result<int> bad = Error{ErrorCode::kUsage, "message", "where"};
  EXPECT_TRUE(good);
  EXPECT_EQ(*good, 3);
  EXPECT_FALSE(bad);
  EXPECT_EQ(bad.error().text(), "where: message");
  EXPECT_EQ((Error{ErrorCode::kUsage, "alone", ""}).text(), "alone");
}

TEST(ResultDeathTest, AbortsWithTheMessageWhenTheValueOfAnErrorIsTaken) {
  const Result<int> bad = Error{ErrorCode::kUsage, "the message", ""};
  EXPECT_DEATH({ [[maybe_unused]] const int value = bad.value(); }, "the message");
  const Result<int> good = 3;
  EXPECT_DEATH({ [[maybe_unused]] const auto& error = good.error(); }, "internal error");
}

TEST(RequireDeathTest, NamesTheConditionAndItsValues) {
  EXPECT_DEATH(MOECHECK_REQUIRE(1 > 2, "x=7"), "1 > 2; x=7");
}

const std::vector<std::string> kKnown = {"experts", "top_k", "d_model", "routing"};

TEST(NearestName, FindsATypoATranspositionAndAMissingLetter) {
  EXPECT_EQ(nearest_name("expertz", kKnown), "experts");
  EXPECT_EQ(nearest_name("exprets", kKnown), "experts");
  EXPECT_EQ(nearest_name("routin", kKnown), "routing");
  EXPECT_EQ(nearest_name("topk", kKnown), "top_k");
}

TEST(NearestName, DoesNotGuessFarAway) {
  EXPECT_EQ(nearest_name("banana", kKnown), std::nullopt);
  EXPECT_EQ(nearest_name("", kKnown), std::nullopt);
  EXPECT_EQ(nearest_name("experts", {}), std::nullopt);
}

TEST(Suggestion, NamesTheNearestOrAllKnown) {
  EXPECT_EQ(suggestion("expert", kKnown), "; did you mean 'experts'?");
  EXPECT_EQ(suggestion("banana", kKnown), "; known: experts, top_k, d_model, routing");
}

TEST(Json, SaysAtWhichByteItIsBroken) {
  EXPECT_TRUE(parse_json(R"({"a": 1})", "x"));
  const auto broken = parse_json(R"({"a": })", "some file");
  ASSERT_FALSE(broken);
  EXPECT_EQ(broken.error().code, ErrorCode::kDamaged);
  EXPECT_THAT(broken.error().text(), testing::AllOf(HasSubstr("some file"), HasSubstr("byte 7")));
}

TEST(Json, RefusesANumberThatNoTypeHolds) {
  const auto broken = parse_json(R"({"a": 1e999})", "some file");
  ASSERT_FALSE(broken);
  EXPECT_EQ(broken.error().code, ErrorCode::kDamaged);
}

TEST(Json, KeepsTheOrderOfKeys) { EXPECT_EQ(parse_json(R"({"b":1,"a":2})", "").value().dump(), R"({"b":1,"a":2})"); }

TEST(HostTensor, StoresAndReadsEveryDtype) {
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kBF16, DType::kF16, DType::kI64, DType::kI32, DType::kU8, DType::kBool}) {
    HostTensor tensor(dtype, {2, 3});
    EXPECT_EQ(tensor.to_doubles(), std::vector<double>(6, 0.0));
    tensor.set(4, 1);
    EXPECT_EQ(tensor.at(4), 1.0) << knob_name(dtype);
    EXPECT_EQ(tensor.num_bytes(), 6 * itemsize(dtype));
  }
}

TEST(HostTensor, ComparesBytesNotValues) {
  const double zero[] = {0.0}, minus_zero[] = {-0.0};
  EXPECT_TRUE(same_bytes(tensor_from_doubles(DType::kF32, {1}, zero), tensor_from_doubles(DType::kF32, {1}, zero)));
  EXPECT_FALSE(same_bytes(tensor_from_doubles(DType::kF32, {1}, zero), tensor_from_doubles(DType::kF32, {1}, minus_zero)));
  EXPECT_FALSE(same_bytes(tensor_from_doubles(DType::kF32, {1}, zero), tensor_from_doubles(DType::kF32, {1, 1}, zero)));
  EXPECT_FALSE(same_bytes(tensor_from_doubles(DType::kF32, {1}, zero), tensor_from_doubles(DType::kI32, {1}, zero)));
}

TEST(HostTensor, MayHaveNoElements) {
  const HostTensor none(DType::kF32, {0, 5});
  EXPECT_EQ(none.numel(), 0);
  EXPECT_TRUE(none.to_doubles().empty());
  EXPECT_EQ(HostTensor(DType::kF32, {}).numel(), 1);
}

}  // namespace
}  // namespace moecheck::base
