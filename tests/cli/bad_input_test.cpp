// Mistakes of the user: exit code 4, the place, what was expected, and nothing started.
#include <gmock/gmock.h>

#include "cli_fixture.h"

namespace moecheck::cli {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

TEST_F(CliTest, PointsAtTheMistakeInAScenario) {
  const std::string good = "version: 1\nmodel: mixtral\nimpl: ep_allreduce\n";
  const std::vector<std::tuple<std::string, std::string, std::string>> mistakes = {
      {good + "meshh: \"ep=2\"\n", "a.yaml:4:", "mesh"},
      {good + "mesh: \"ep=2\"\nmesh: \"ep=4\"\n", "a.yaml:5:", "mesh"},
      {good + "mesh: \"ep=77\"\n", "a.yaml:4:", "size '77' of mesh dimension ep is not a number from 1 to 64"},
      {good + "tokens: {per_rank: many}\n", "a.yaml:4:", "many"},
      {good + "checks: [no_such_check]\n", "", "no_such_check"},
      {"version: 1\nmodel: mixtrall\nimpl: ep_allreduce\n", "a.yaml:2:", "mixtral"},
      {good + "mesh: [\n", "a.yaml:", ""}};
  for (const auto& [text, place, what] : mistakes) {
    write("a.yaml", text);
    const Outcome wrong = moecheck({"run", "a.yaml"});
    EXPECT_EQ(wrong.exit_code, 4) << text << wrong.err << wrong.out;
    EXPECT_THAT(wrong.err, AllOf(HasSubstr(place), HasSubstr(what)));
    EXPECT_FALSE(fs::exists(folder_ / ".moecheck")) << "nothing is run";
  }
}

TEST_F(CliTest, NamesAScenarioThatIsNotThere) {
  const Outcome missing = moecheck({"run", "no_such_file.yaml"});
  EXPECT_EQ(missing.exit_code, 4);
  EXPECT_THAT(missing.err, HasSubstr("no_such_file.yaml"));
}

TEST_F(CliTest, NamesTheKnobOfACaseIdThatIsWrong) {
  EXPECT_THAT(moecheck({"run", "--case", "impl=ep_allreduce model=mixtral mesh=ep=2 dtpye=fp32"}).err, AllOf(HasSubstr("--case"), HasSubstr("dtype")));
  EXPECT_EQ(moecheck({"run", "--case", "impl=ep_allreduce model=mixtral mesh=ep=77 dtype=fp32"}).exit_code, 4);
}

TEST_F(CliTest, ReportsALayoutThatTheSubjectRefusesWithItsReason) {
  const std::vector<std::pair<std::string, std::string>> refused = {
      {"impl=ep_allreduce model=mixtral mesh=ep=7 dtype=fp32", "12 experts cannot be spread evenly over ep=7"},
      {"impl=ep_fsdp model=mixtral mesh=ep=2 dtype=fp32", "tokens_over=dp,fsdp,ep"},
      {"impl=tp_sharded model=mixtral mesh=ep=2 dtype=fp32", "does not support mesh dimension ep"}};
  for (const auto& [id, reason] : refused) {
    EXPECT_EQ(moecheck({"run", "--case", id, "--out", "run"}).exit_code, 6) << id;
    const base::Json one = record_of()["cases"][0];
    EXPECT_EQ(one["verdict"], "unsupported");
    EXPECT_THAT(one["reason"].get<std::string>(), HasSubstr(reason));
  }
}

TEST_F(CliTest, NamesTheTruncatedCheckpointAndTheRemedy) {
  // A real one, cut in half: that of a run which keeps it busy.
  auto busy = start({"run", unruly_case("hang.1.forward"), "--subject", MOECHECK_UNRULY_SUBJECT});
  ASSERT_TRUE(launch::eventually([&] { return exists_in_scratch("checkpoints/c0/model.safetensors"); }));
  fs::create_directories(folder_ / "checkpoint");
  for (const auto& entry : fs::directory_iterator(folder_ / "t"))
    fs::copy_file(entry.path() / "checkpoints/c0/model.safetensors", folder_ / "checkpoint/model.safetensors");
  busy.kill_group();
  ASSERT_TRUE(busy.wait_for(launch::kLongEnough));
  EXPECT_EQ(moecheck({"run", kCase, "--checkpoint", "checkpoint"}).exit_code, 0) << "as a whole it is good";
  fs::resize_file(folder_ / "checkpoint/model.safetensors", fs::file_size(folder_ / "checkpoint/model.safetensors") / 2);
  const Outcome truncated = moecheck({"run", kCase, "--checkpoint", "checkpoint", "--out", "run"});
  EXPECT_EQ(truncated.exit_code, 6) << truncated.out;
  const base::Json one = record_of()["cases"][0];
  EXPECT_EQ(one["verdict"], "error");
  EXPECT_THAT(one["reason"].get<std::string>(), AllOf(HasSubstr("checkpoint/model.safetensors"), HasSubstr("--checkpoint must name")));
  EXPECT_THAT(truncated.out, HasSubstr("checkpoint/model.safetensors"));
}

TEST_F(CliTest, NamesACheckpointThatIsNotThere) {
  const Outcome missing = moecheck({"run", kCase, "--checkpoint", "absent"});
  EXPECT_EQ(missing.exit_code, 6);
  EXPECT_THAT(missing.out, HasSubstr("absent/model.safetensors"));
}

TEST_F(CliTest, NamesADamagedRecord) {
  write("run/run.json", "{\"schema\": 1, \"cases\": [{\"id\": 5}]}");
  const Outcome damaged = moecheck({"report", "run"});
  EXPECT_EQ(damaged.exit_code, 6);
  EXPECT_THAT(damaged.err, HasSubstr("run/run.json"));
  EXPECT_EQ(moecheck({"check", "run"}).exit_code, 5) << "it holds no traces";
  EXPECT_EQ(moecheck({"check", "absent"}).exit_code, 6);
}

}  // namespace
}  // namespace moecheck::cli
