#include "harness/driver/layout_invariance.h"

#include <gmock/gmock.h>

#include "fake_launcher.h"

namespace moecheck::driver {
namespace {

using record::CaseRecord;
using record::Verdict;
using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr const char* kOutput = "output/y_TD";
constexpr const char* kRight = "00000000000000aa";
constexpr const char* kWrong = "00000000000000bb";

// A passed case with that digest of its output.
CaseRecord passed(const std::string& knobs, const std::string& digest = kRight) {
  const IdentifiedCase identified = case_of(1, "values=exact " + knobs);
  CaseRecord one;
  one.id = identified.id;
  one.config = cases::config_of(identified.one);
  one.verdict = Verdict::kPass;
  one.digests = {{kOutput, digest}};
  return one;
}

std::vector<std::size_t> indices(const std::vector<CaseRecord>& cases) {
  std::vector<std::size_t> found;
  for (const LayoutFinding& one : layout_findings(cases)) found.push_back(one.index);
  return found;
}

TEST(LayoutInvariance, NamesTheCaseThatDiffersFromTheOthers) {
  const std::vector<CaseRecord> cases = {passed("mesh=ep=2", kWrong), passed("mesh=none"), passed("mesh=ep=4")};
  const auto found = layout_findings(cases);
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].index, 0U);
  EXPECT_EQ(found[0].finding.check, "layout_invariance");
  EXPECT_EQ(found[0].finding.stage, kOutput);
  EXPECT_EQ(found[0].finding.compared, 2);
  EXPECT_TRUE(record::is_failure(found[0].finding));
  EXPECT_THAT(found[0].finding.message, AllOf(HasSubstr(cases[1].id), HasSubstr("and 1 more")));
}

TEST(LayoutInvariance, BlamesTheSecondOfTwo) {
  EXPECT_THAT(indices({passed("mesh=none"), passed("mesh=ep=2", kWrong)}), testing::ElementsAre(1));
}

TEST(LayoutInvariance, IsSilentWhereAllAgreeOrOneIsAlone) {
  EXPECT_THAT(indices({passed("mesh=none"), passed("mesh=ep=2")}), IsEmpty());
  EXPECT_THAT(indices({passed("mesh=none")}), IsEmpty());
  EXPECT_THAT(indices({}), IsEmpty());
}

TEST(LayoutInvariance, ComparesWhateverALayoutMayChoose) {
  for (const char* layout : {"mesh=dp=2 tokens=4,3", "mesh=ep=2 tokens=3,4 tokens_over=dp,fsdp,ep", "mesh=ep=2,tp=2 expert_tp=one",
                             "experts_backend=grouped_mm", "recompute=true", "device=cuda", "mesh=fsdp=2 tokens=6,1"})
    EXPECT_THAT(indices({passed(""), passed(layout, kWrong)}), testing::ElementsAre(1)) << layout;
}

TEST(LayoutInvariance, DoesNotCompareDifferentProblems) {
  for (const char* problem : {"tokens=8", "mesh=dp=2", "dtype=bf16", "routing=zipf", "top_k=1", "softmax=after_topk", "renormalise=false",
                              "apply_scores=before_experts", "phases=load,forward,backward", "d_ff=4", "d_model=16", "experts=6",
                              "lr=0.5 phases=load,forward,backward,step"})
    EXPECT_THAT(indices({passed(""), passed(problem, kWrong)}), IsEmpty()) << problem;
  CaseRecord other_seed = passed("mesh=ep=2", kWrong);
  const IdentifiedCase two = case_of(2, "values=exact mesh=ep=2");
  other_seed.config = cases::config_of(two.one);
  EXPECT_THAT(indices({passed(""), other_seed}), IsEmpty());
}

TEST(LayoutInvariance, ComparesRoutingThatDependsOnTheMeshBetweenEqualSizesOfEpOnly) {
  const auto routed = [](const std::string& routing, const std::string& mesh, const char* digest) {
    return passed("routing=" + routing + " mesh=" + mesh, digest);
  };
  for (const char* routing : {"idle_rank", "k_ranks", "one_rank"}) {
    EXPECT_THAT(indices({routed(routing, "ep=2", kRight), routed(routing, "ep=4", kWrong)}), IsEmpty()) << routing;
    EXPECT_THAT(indices({routed(routing, "ep=2", kRight), routed(routing, "ep=2,tp=2", kWrong)}), testing::ElementsAre(1)) << routing;
  }
  EXPECT_THAT(indices({routed("zipf", "ep=2", kRight), routed("zipf", "ep=4", kWrong)}), testing::ElementsAre(1));
}

TEST(LayoutInvariance, LeavesOutCasesThatDidNotPassAndTensorsThatOneLacks) {
  CaseRecord failed = passed("mesh=ep=2", kWrong);
  failed.verdict = Verdict::kFail;
  EXPECT_THAT(indices({passed(""), failed}), IsEmpty());
  CaseRecord backward = passed("mesh=ep=2");
  backward.digests["grad/x_TD"] = kWrong;
  EXPECT_THAT(indices({passed(""), backward}), IsEmpty());
}

TEST(LayoutInvariance, GivesFaultyCasesNoSay) {
  EXPECT_THAT(indices({passed("fault=a", kWrong), passed("fault=b", kWrong), passed("mesh=ep=2")}), testing::ElementsAre(0, 1));
  EXPECT_THAT(indices({passed("fault=a", kWrong), passed("fault=b")}), IsEmpty()) << "no sound case to compare with";
}

TEST(LayoutInvariance, LeavesOutARecordThatItCannotRead) {
  CaseRecord strange = passed("mesh=ep=2", kWrong);
  strange.config.emplace_back("knob_of_another_version", "1");
  CaseRecord damaged = passed("mesh=ep=2", kWrong);
  for (auto& [knob, value] : damaged.config)
    if (knob == "mesh") value = "ep=many";
  EXPECT_THAT(indices({passed(""), strange, damaged}), IsEmpty());
}

TEST(CompareLayouts, FailsTheCaseAndLeavesTheOthersAsTheyAre) {
  const auto cases = compare_layouts({passed(""), passed("mesh=ep=2", kWrong)}, {});
  EXPECT_EQ(cases[0].verdict, Verdict::kPass);
  EXPECT_TRUE(cases[0].findings.empty());
  EXPECT_EQ(cases[1].verdict, Verdict::kFail);
  EXPECT_EQ(cases[1].first_diverging, kOutput);
  ASSERT_EQ(cases[1].findings.size(), 1U);
}

TEST(CompareLayouts, TakesACaseThatIsExpectedToFailForAFailureAsExpected) {
  CaseRecord xpassed = passed("mesh=ep=2", kWrong);
  xpassed.verdict = Verdict::kXpass;
  xpassed.reason = "expected to fail: issue 7";
  const auto cases = compare_layouts({passed(""), xpassed}, {{xpassed.id, "issue 7"}});
  EXPECT_EQ(cases[1].verdict, Verdict::kXfail);
  EXPECT_EQ(cases[1].reason, "issue 7");
}

// One rank computes and combines everything, so its partial result is its output; phase_completion does not look at either.
std::map<std::string, base::HostTensor> constant_output(const cases::Case& one, const std::string& phase, double value) {
  if (phase != "forward") return {};
  const base::Shape shape = {one.problem.num_tokens(0), one.problem.model.d_model};
  std::vector<double> values(static_cast<std::size_t>(base::num_elements(shape)), value);
  const auto tensor = base::tensor_from_doubles(base::DType::kF32, shape, values);
  return {{"combine/partial_TD", tensor}, {kOutput, tensor}};
}

TEST_F(PipelineTest, ComparesTheCasesOfARunAtItsEnd) {
  options_.cases = {case_of(1, "values=exact"), case_of(1, "values=exact recompute=true"), case_of(2, "values=exact recompute=true")};
  script_.taps_of = [](const cases::Case& one, const std::string& phase, model::Dim) { return constant_output(one, phase, one.is_recomputed ? 2 : 1); };
  const record::RunRecord run = run_all();
  ASSERT_EQ(run.cases.size(), 3U);
  EXPECT_EQ(run.cases[0].digests.count(kOutput), 1U);
  EXPECT_EQ(run.summary_text(), "2 pass, 1 fail");
  EXPECT_EQ(run.cases[1].verdict, Verdict::kFail);
  EXPECT_THAT(run.cases[1].findings.at(0).message, HasSubstr(run.cases[0].id));
  EXPECT_EQ(run.exit_code(), record::kExitFailed);
  EXPECT_EQ(record::read_run_record(options_.run_dir).value().cases[1].verdict, Verdict::kFail);
}

TEST_F(PipelineTest, FindsEqualResultsOfTwoLayoutsEqual) {
  options_.cases = {case_of(1, "values=exact"), case_of(1, "values=exact recompute=true")};
  script_.taps_of = [](const cases::Case& one, const std::string& phase, model::Dim) { return constant_output(one, phase, 1); };
  const record::RunRecord run = run_all();
  EXPECT_EQ(run.summary_text(), "2 pass");
  EXPECT_FALSE(run.cases[0].digests.empty());
  EXPECT_EQ(run.cases[0].digests, run.cases[1].digests);
}

TEST_F(PipelineTest, GivesNoDigestsOfValuesThatAreRounded) {
  add_cases(1);
  script_.taps_of = [](const cases::Case& one, const std::string& phase, model::Dim) { return constant_output(one, phase, 1); };
  EXPECT_TRUE(run_all().cases[0].digests.empty());
}

}  // namespace
}  // namespace moecheck::driver
