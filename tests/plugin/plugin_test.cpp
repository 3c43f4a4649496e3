// Native plug-ins as a user runs them, and those that are refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cli/cli_fixture.h"

namespace moecheck::cli {
namespace {

using base::Json;
using Dim = std::int64_t;
using testing::AllOf;
using testing::HasSubstr;

const std::string kRank = MOECHECK_BIN_DIR "/moecheck-rank";
constexpr const char* kExamples = MOECHECK_BIN_DIR "/../plugins/";
constexpr const char* kSpoilt = MOECHECK_BIN_DIR "/../tests/plugins/";

class PluginTest : public CliTest {
 protected:
  // With the record in run/.
  Outcome run(const std::string& plugin, const std::vector<std::string>& cases) const {
    std::vector<std::string> arguments = {"run", "--subject", kRank + " --plugin " + plugin, "--out", "run"};
    for (const std::string& one : cases) arguments.insert(arguments.end(), {"--case", one});
    return moecheck(arguments);
  }
  Outcome describe(const std::string& plugin) const { return shell(kRank + " --plugin '" + plugin + "' --moecheck-describe"); }

  Json findings() const { return record_of()["cases"][0]["findings"]; }
  bool has_finding(const std::string& check, const std::string& stage, const std::string& text = "") const {
    for (const Json& finding : findings())
      if (finding["check"] == check && finding["stage"] == stage && finding["message"].get<std::string>().find(text) != std::string::npos)
        return true;
    return false;
  }
};

std::string naive_ep(const std::string& mesh, const std::string& more = "") {
  return "impl=naive_ep model=qwen3_moe mesh=" + mesh + " phases=load,forward,backward,step" + more;
}

TEST_F(PluginTest, PassesEveryPhaseOnEveryMeshThatItOffers) {
  std::vector<std::string> cases;
  for (const char* mesh : {"none", "ep=1", "ep=2", "ep=4"})
    for (const char* more : {"", " values=exact top_k=2", " optimizer=adamw steps=2 microbatches=2 clip_norm=1", " routing=idle_expert tokens=3",
                             " tokens=0 checks=phase_completion,expert_census,placement"})
      cases.push_back(naive_ep(mesh, more));
  const Outcome outcome = run(kExamples + std::string("naive_ep.so"), cases);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.out << outcome.err;
  EXPECT_EQ(record_of()["summary"]["pass"], cases.size()) << outcome.out;
}

TEST_F(PluginTest, LeavesNoStageOfTheLayerUnobserved) {
  ASSERT_EQ(run(kExamples + std::string("naive_ep.so"), {naive_ep("ep=2")}).exit_code, 0);
  const Json one = record_of()["cases"][0];
  for (const Json& check : one["checks"]) EXPECT_NE(check["state"], "unobserved") << check.dump();
}

TEST_F(PluginTest, IsSavedResumedAndCrashedByTheHost) {
  const std::string training = " optimizer=adamw steps=3 save=sharded save_after=1";
  const std::vector<std::string> cases = {naive_ep("ep=2", training + " restart=ep=4/back"), naive_ep("ep=2", training + " restart=back"),
                                          naive_ep("ep=2", training + " restart=back crash=files"),
                                          naive_ep("ep=2", " steps=1 save=huggingface restart=ep=4")};
  const Outcome outcome = run(kExamples + std::string("naive_ep.so"), cases);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.out << outcome.err;
  EXPECT_TRUE(is_all_gone());
}

TEST_F(PluginTest, PassesWithLibTorchOverDataParallelRanks) {
  const std::string dense = "impl=torch_dense model=qwen3_moe phases=load,forward,backward,step ";
  const std::vector<std::string> cases = {dense + "mesh=none", dense + "mesh=dp=2", dense + "mesh=dp=2 dtype=bf16 optimizer=adamw",
                                          dense + "mesh=dp=2 values=exact top_k=2"};
  const Outcome outcome = run(kExamples + std::string("torch_dense.so"), cases);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.out << outcome.err;
  EXPECT_EQ(record_of()["summary"]["pass"], 4) << outcome.out;
}

TEST_F(PluginTest, SendsThroughEveryCollectiveWhatComesBackRight) {
  const std::string one = "impl=collectives model=qwen3_moe mesh=dp=2,ep=2 checks=phase_completion,comm_log";
  const Outcome sound = run(kSpoilt + std::string("collectives.so"), {one});
  EXPECT_EQ(sound.exit_code, 0) << sound.out << sound.err;
  Dim num_compared = 0;
  const Json judged = record_of()["cases"][0];
  for (const Json& check : judged["checks"])
    if (check["name"] == "comm_log") num_compared = check["compared"].get<Dim>();
  EXPECT_GE(num_compared, 24);   // six on each of four ranks
  EXPECT_EQ(run(kSpoilt + std::string("too_many_rows.so"), {one}).exit_code, 1);
  EXPECT_THAT(findings().dump(), HasSubstr("all_gather: the rows of all ranks are 11, the tensor has 10"));
}

TEST_F(PluginTest, StepsItselfAndIsJudgedByWhatItShows) {
  const std::string one = naive_ep("ep=2", " steps=2 momentum=0 weight_decay=0");
  const Outcome sound = run(kSpoilt + std::string("own_step.so"), {one});
  EXPECT_EQ(sound.exit_code, 0) << sound.out << sound.err;
  EXPECT_EQ(run(kSpoilt + std::string("own_step_too_long.so"), {one}).exit_code, 1);
  EXPECT_TRUE(has_finding("optimizer", "optim/master/experts/down_EDF")) << findings();
}

TEST_F(PluginTest, IsCaughtWhereItDoesNotReduce) {
  EXPECT_EQ(run(kSpoilt + std::string("missing_all_reduce.so"), {naive_ep("ep=2")}).exit_code, 1);
  EXPECT_TRUE(has_finding("stage_diff", "output/y_TD")) << findings();
  EXPECT_TRUE(has_finding("comm_log", "output/y_TD", "missing reduction")) << findings();
}

TEST_F(PluginTest, IsCaughtWithTheExpertsOfAnotherRank) {
  EXPECT_EQ(run(kSpoilt + std::string("wrong_experts.so"), {naive_ep("ep=2")}).exit_code, 1);
  EXPECT_TRUE(has_finding("expert_census", "param/experts/gate_up_EGD")) << findings();
}

TEST_F(PluginTest, FailsThePhaseWithTheMessageOfAnErrorThatItReturns) {
  const Outcome outcome = run(kSpoilt + std::string("error_in_forward.so"), {naive_ep("ep=2")});
  EXPECT_EQ(outcome.exit_code, 1) << outcome.out;
  Json raised = Json::array();
  for (const Json& finding : findings())
    if (finding["check"] == "phase_completion") raised.push_back(finding);
  ASSERT_EQ(raised.size(), 1U) << findings();
  EXPECT_EQ(raised[0]["rank"], 1);
  EXPECT_THAT(raised[0]["message"].get<std::string>(), HasSubstr("the shop is closed"));
}

TEST_F(PluginTest, MayNotGoOnAfterACallbackFailed) {
  EXPECT_EQ(run(kSpoilt + std::string("swallowed_failure.so"), {naive_ep("ep=2")}).exit_code, 1);
  EXPECT_THAT(findings().dump(), HasSubstr("went on in forward after a callback had failed: all_reduce_sum: there is no mesh dimension 'moon'"));
}

TEST_F(PluginTest, IsToldWhatIsWrongWithATensor) {
  EXPECT_EQ(run(kSpoilt + std::string("bad_tensor.so"), {naive_ep("ep=2")}).exit_code, 1);
  EXPECT_THAT(findings().dump(), HasSubstr("cannot show it (after tap: the tensor has no data)"));
}

TEST_F(PluginTest, FailsThePhaseInWhichItLetsAnExceptionOut) {
  EXPECT_EQ(run(kSpoilt + std::string("exception.so"), {naive_ep("ep=2")}).exit_code, 1);
  EXPECT_THAT(findings().dump(), HasSubstr("the plug-in lets an exception out of forward: nobody catches this"));
}

TEST_F(PluginTest, IsCaughtWhereItLeavesMemoryUnwritten) {
  EXPECT_EQ(run(kSpoilt + std::string("unwritten_output.so"), {naive_ep("none", "")}).exit_code, 1);
  EXPECT_TRUE(has_finding("nonfinite", "output/y_TD")) << findings();
  EXPECT_EQ(run(kSpoilt + std::string("unwritten_heap.so"), {naive_ep("none", "")}).exit_code, 1);
  EXPECT_TRUE(has_finding("stage_diff", "output/y_TD")) << findings();
}

TEST_F(PluginTest, RefusesCasesThatItDoesNotDescribeOrHeed) {
  const std::string plugin = kExamples + std::string("naive_ep.so");
  const auto verdict_of = [&](const std::string& one) {
    EXPECT_EQ(run(plugin, {one}).exit_code, 6) << one;
    return record_of()["cases"][0]["reason"].get<std::string>();
  };
  EXPECT_THAT(verdict_of("impl=naive_ep model=qwen3_moe mesh=tp=2"), HasSubstr("does not support mesh dimension tp"));
  EXPECT_THAT(verdict_of("impl=naive_ep model=qwen3_moe mesh=ep=2 dtype=bf16"), HasSubstr("does not support dtype bf16"));
  EXPECT_THAT(verdict_of("impl=naive_ep model=qwen3_moe mesh=ep=2 tokens_over=dp,ep"), HasSubstr("does not support tokens that are sharded over ep"));
  EXPECT_THAT(verdict_of("impl=naive_ep model=qwen3_moe mesh=ep=2 apply_scores=before_experts"), HasSubstr("does not heed apply_scores=before_experts"));
  EXPECT_THAT(verdict_of("impl=naive_ep model=qwen3_moe mesh=ep=5"), HasSubstr("experts cannot be spread evenly over ep=5"));
  EXPECT_THAT(verdict_of("impl=ep_allreduce model=qwen3_moe mesh=ep=2"), HasSubstr("has no implementation 'ep_allreduce'"));
}

TEST_F(PluginTest, IsTakenInAnOlderSmallerVersion) {
  const Outcome described = describe(kSpoilt + std::string("ends_after_close.so"));
  EXPECT_EQ(described.exit_code, 0) << described.err;
  EXPECT_EQ(run(kSpoilt + std::string("ends_after_close.so"), {"impl=odd model=qwen3_moe mesh=ep=2"}).exit_code, 6);
  EXPECT_THAT(record_of()["cases"][0]["reason"].get<std::string>(), HasSubstr("the odd one opens nothing"));
}

struct Refusal {
  std::string file;
  std::string text;
};

TEST_F(PluginTest, IsRefusedWithTheReasonAndTheExitCodeOfWrongUsage) {
  write("text.so", "not an object file");
  const std::string folder = kSpoilt;
  const std::vector<Refusal> refusals = {{folder_ / "absent.so", "there is no such file"},
                                         {folder_ / "text.so", "it cannot be loaded"},
                                         {folder + "no_symbol.so", "it does not export moecheck_plugin()"},
                                         {folder + "later_version.so", "it has version 2 of the ABI, this build knows 1 to 1"},
                                         {folder + "larger.so", "its MoecheckPlugin says"},
                                         {folder + "ends_before_close.so", "its MoecheckPlugin says"},
                                         {folder + "bad_description.so", "description does not follow protocol 1"},
                                         {folder + "no_backward.so", "it describes the phase backward, and its table has none"},
                                         {folder + "null_table.so", "moecheck_plugin() returns NULL"}};
  for (const Refusal& refusal : refusals) {
    const Outcome described = describe(refusal.file);
    EXPECT_EQ(described.exit_code, 4) << refusal.file;
    EXPECT_THAT(described.err, AllOf(HasSubstr("plug-in "), HasSubstr(refusal.file.substr(refusal.file.rfind('/'))), HasSubstr(refusal.text)));
  }
}

TEST_F(PluginTest, CannotBeTestedWhereItIsRefused) {
  const Outcome outcome = run(kSpoilt + std::string("later_version.so"), {naive_ep("ep=2")});
  EXPECT_EQ(outcome.exit_code, 6) << outcome.out << outcome.err;
  EXPECT_THAT(outcome.out + outcome.err, HasSubstr("it has version 2 of the ABI"));
}

}  // namespace
}  // namespace moecheck::cli
