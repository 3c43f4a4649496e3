#include "harness/cli/selection.h"

#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "harness/base/files.h"

namespace moecheck::cli {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;

constexpr const char* kFamily =
    "version: 1\nfamily: tiny\nsizes: {experts: 12, top_k: 3, d_model: 48, d_ff: 96}\nrouter: {softmax: before_topk, renormalise: true}\n"
    "experts: {activation: silu, packing: gate_up}\n"
    "checkpoint: {router: r, gate: 'g.{e}', up: 'u.{e}', down: 'd.{e}', attention: a}\n";
constexpr const char* kScenario =
    "version: 1\nimpl: ep_allreduce\nmodel: tiny\nmatrix:\n  mesh: [none, \"ep=2\", \"ep=3\"]\n  dtype: [fp32, bf16]\ntags: [quick]\n";
constexpr const char* kOther = "version: 1\nimpl: tp_sharded\nmodel: tiny\nmesh: \"tp=2\"\ntags: [slow]\n";

// A scenarios folder of its own, which is also the current folder.
class SelectionTest : public testing::Test {
 protected:
  SelectionTest() : before_(fs::current_path()) {
    std::string pattern = (fs::temp_directory_path() / "selection_test_XXXXXX").string();
    if (::mkdtemp(pattern.data()) != nullptr) folder_ = pattern;
    fs::create_directories(folder_ / "scenarios" / "models");
    fs::create_directories(folder_ / "scenarios" / "cases");
    write("scenarios/models/tiny.yaml", kFamily);
    write("scenarios/cases/ep.yaml", kScenario);
    write("scenarios/cases/tp.yaml", kOther);
    ::setenv("MOECHECK_SCENARIOS", (folder_ / "scenarios").c_str(), 1);
    fs::current_path(folder_);
  }
  ~SelectionTest() override {
    fs::current_path(before_);
    ::unsetenv("MOECHECK_SCENARIOS");
    std::error_code code;
    fs::remove_all(folder_, code);
  }

  void write(const std::string& name, std::string_view text) const { EXPECT_TRUE(base::write_file_atomically(folder_ / name, text)); }

  std::vector<std::string> ids(const SelectionOptions& options) const {
    std::vector<std::string> all;
    const auto selected = select_cases(options);
    for (const driver::IdentifiedCase& one : selected.value().cases) all.push_back(one.id);
    return all;
  }
  std::string error(const SelectionOptions& options) const {
    const auto selected = select_cases(options);
    EXPECT_TRUE(selected || selected.error().code == base::ErrorCode::kUsage);
    return selected ? "no error" : selected.error().text();
  }
  SelectionOptions all() const {
    SelectionOptions options;
    options.targets = {"cases"};
    return options;
  }

  fs::path folder_;
  fs::path before_;
};

TEST_F(SelectionTest, TakesFoldersFilesAndIdsAlike) {
  SelectionOptions options;
  options.targets = {"cases"};
  EXPECT_THAT(ids(options), SizeIs(7));
  options.targets = {"scenarios/cases/tp.yaml"};
  EXPECT_THAT(ids(options), ElementsAre("impl=tp_sharded model=tiny mesh=tp=2 dtype=fp32"));
  options.targets = {"impl=ep_allreduce model=tiny mesh=ep=4 dtype=bf16"};
  EXPECT_THAT(ids(options), ElementsAre("impl=ep_allreduce model=tiny mesh=ep=4 dtype=bf16"));
}

TEST_F(SelectionTest, SelectsNothingWhenNothingIsNamed) { EXPECT_TRUE(ids({}).empty()); }

TEST_F(SelectionTest, RunsACaseOnceHoweverOftenItIsNamed) {
  SelectionOptions options = all();
  options.targets.push_back("cases");
  options.case_ids = {"impl=tp_sharded model=tiny mesh=tp=2 dtype=fp32", "mesh=tp=2 dtype=fp32 model=tiny impl=tp_sharded"};
  EXPECT_THAT(ids(options), SizeIs(7));
}

TEST_F(SelectionTest, ReadsBackEveryIdThatItPrints) {
  SelectionOptions options;
  options.case_ids = ids(all());
  EXPECT_EQ(ids(options), ids(all()));
}

TEST_F(SelectionTest, FiltersByExpressionOverIdScenarioAndTags) {
  SelectionOptions options = all();
  options.expression = "ep=2 and not bf16";
  EXPECT_THAT(ids(options), ElementsAre("impl=ep_allreduce model=tiny mesh=ep=2 dtype=fp32"));
  options.expression = "cases/tp or slow";
  EXPECT_THAT(ids(options), SizeIs(1));
}

TEST_F(SelectionTest, FiltersByTags) {
  SelectionOptions options = all();
  options.tags = {"quick"};
  EXPECT_THAT(ids(options), SizeIs(6));
  options.tags = {"quick", "slow"};
  EXPECT_TRUE(ids(options).empty()) << "every tag must be there";
}

TEST_F(SelectionTest, SetsAKnobInEveryCase) {
  SelectionOptions options = all();
  options.sets = {"seed=7", "dtype=bf16"};
  const auto selected = ids(options);
  EXPECT_THAT(selected, SizeIs(4)) << "fp32 and bf16 become one";
  EXPECT_THAT(selected, testing::Each(testing::AllOf(HasSubstr("seed=7"), HasSubstr("dtype=bf16"))));
}

TEST_F(SelectionTest, SplitsIntoShardsThatCoverEveryCaseOnce) {
  std::vector<std::string> together;
  for (const char* shard : {"1/3", "2/3", "3/3"}) {
    SelectionOptions options = all();
    options.shard = shard;
    for (const std::string& id : ids(options)) together.push_back(id);
  }
  EXPECT_THAT(together, testing::UnorderedElementsAreArray(ids(all())));
}

TEST_F(SelectionTest, LeavesAShardEmptyIfThereAreFewerCases) {
  SelectionOptions options = all();
  options.shard = "9/9";
  EXPECT_TRUE(ids(options).empty());
}

TEST_F(SelectionTest, RefusesAShardThatIsNone) {
  for (const char* shard : {"0/2", "3/2", "1", "1/", "/2", "a/b", "1/2x", "1x/2", "-1/2", "1/0", "99999999999999999999/1"}) {
    SelectionOptions options = all();
    options.shard = shard;
    EXPECT_THAT(error(options), testing::AllOf(HasSubstr("--shard"), HasSubstr("1 <= i <= n"))) << shard;
  }
}

TEST_F(SelectionTest, NamesWhatIsWrongAndWhatWasMeant) {
  SelectionOptions options = all();
  options.sets = {"dtpye=bf16"};
  EXPECT_THAT(error(options), testing::AllOf(HasSubstr("--set"), HasSubstr("dtpye"), HasSubstr("dtype")));
  options.sets = {"dtype"};
  EXPECT_THAT(error(options), HasSubstr("not knob=value"));
  options.sets = {"dtype=fp12"};
  EXPECT_THAT(error(options), HasSubstr("fp12"));
  options = {};
  options.case_ids = {"impl=ep_allreduce model=tinny mesh=ep=2 dtype=fp32"};
  EXPECT_THAT(error(options), testing::AllOf(HasSubstr("tinny"), HasSubstr("tiny")));
  options.case_ids = {"impl=ep_allreduce model=tiny mesh=ep=65 dtype=fp32"};
  EXPECT_THAT(error(options), HasSubstr("size '65' of mesh dimension ep is not a number from 1 to 64"));
}

TEST_F(SelectionTest, TakesTheFailedCasesOfTheLastRun) {
  SelectionOptions options = all();
  options.is_last_failed = true;
  EXPECT_THAT(error(options), HasSubstr("no last run"));
  record::RunRecord last;
  const auto add = [&](const char* id, record::Verdict verdict) {
    record::CaseRecord one;
    one.id = id;
    one.verdict = verdict;
    last.cases.push_back(one);
  };
  add("impl=ep_allreduce model=tiny mesh=ep=2 dtype=fp32", record::Verdict::kTimeout);
  add("impl=ep_allreduce model=tiny mesh=ep=2 dtype=bf16", record::Verdict::kPass);
  add("impl=tp_sharded model=tiny mesh=tp=2 dtype=fp32", record::Verdict::kFail);
  fs::create_directories(folder_ / ".moecheck" / "latest");
  ASSERT_TRUE(record::write_run_record(folder_ / ".moecheck" / "latest", last));
  EXPECT_THAT(ids(options), ElementsAre("impl=ep_allreduce model=tiny mesh=ep=2 dtype=fp32", "impl=tp_sharded model=tiny mesh=tp=2 dtype=fp32"));
}

}  // namespace
}  // namespace moecheck::cli
