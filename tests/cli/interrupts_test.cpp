// Ranks and drivers that are stopped, killed or interrupted: the right words, and no process left.
#include <gmock/gmock.h>

#include "cli_fixture.h"

namespace moecheck::cli {
namespace {

namespace fs = std::filesystem;
using base::Json;
using testing::AllOf;
using testing::HasSubstr;
using launch::eventually;

// Repeated until somebody stops it.
const std::vector<std::string> kEndless = {"run", kCase, std::string(kCase) + " seed=2", "--repeat", "10000", "--out", "run"};

class Interrupted : public CliTest {
 protected:
  // In the middle of a case on real ranks.
  launch::ChildProcess start_endless() const {
    auto process = start(kEndless);
    EXPECT_TRUE(eventually([this] { return exists_in_scratch("w0/trace/forward/rank1.safetensors"); })) << read("err.txt");
    EXPECT_EQ(ranks().size(), 2U);
    return process;
  }
};

TEST_F(Interrupted, OnceFinishesTheCaseAndReports) {
  auto process = start_endless();
  ::kill(process.pid(), SIGINT);
  EXPECT_EQ(finish(process).exit_code, 2);
  const Json record = record_of();
  EXPECT_EQ(record["interrupted"], true);
  EXPECT_EQ(record["summary"]["pass"], 1) << "the one that ran, and not the one behind it";
  EXPECT_TRUE(fs::exists(folder_ / "run" / "report.html"));
  EXPECT_TRUE(is_all_gone());
  EXPECT_TRUE(fs::is_empty(folder_ / "t"));
}

TEST_F(Interrupted, BySigtermDoesTheSame) {
  auto process = start_endless();
  ::kill(process.pid(), SIGTERM);
  EXPECT_EQ(finish(process).exit_code, 2);
  EXPECT_EQ(record_of()["summary"]["pass"], 1);
  EXPECT_TRUE(is_all_gone());
}

TEST_F(Interrupted, TwiceEndsRanksThatHang) {
  auto process = start({"run", unruly_case("honest"), unruly_case("hang_ignoring_sigterm.1.forward"), "--subject", MOECHECK_UNRULY_SUBJECT, "--timeout", "600", "--out", "run"});
  // The second case has begun when the first one's line is on disk.
  ASSERT_TRUE(eventually([this] { return read("run/events.jsonl").find("\"verdict\":\"pass\"") != std::string::npos; }));
  EXPECT_EQ(ranks().size(), 2U);
  const auto start = std::chrono::steady_clock::now();
  // Signals that come while one is pending are one: it takes at least two, and another harms nobody.
  EXPECT_TRUE(eventually([&] {
    if (!process.exited()) ::kill(process.pid(), SIGINT);
    return process.exited().has_value();
  }));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
  EXPECT_EQ(finish(process).exit_code, 2);
  EXPECT_EQ(record_of()["cases"].size(), 1U) << "a case ended by hand has no verdict";
  EXPECT_TRUE(is_all_gone());
  EXPECT_TRUE(fs::is_empty(folder_ / "t"));
}

TEST_F(Interrupted, WhileTheSubjectIsAskedWhatItCanEndsAtOnce) {
  auto process = start({"run", unruly_case("honest"), "--subject", std::string(MOECHECK_UNRULY_SUBJECT) + " describe_hangs"});
  ASSERT_TRUE(eventually([this] { return exists_in_scratch("describe"); }));
  ::kill(process.pid(), SIGINT);
  EXPECT_EQ(finish(process).exit_code, 2);
}

TEST_F(Interrupted, ByTheDeathOfTheDriverLeavesNoRank) {
  auto process = start_endless();
  ::kill(process.pid(), SIGKILL);
  EXPECT_TRUE(is_all_gone());
  ASSERT_TRUE(process.wait_for(launch::kLongEnough));
  EXPECT_FALSE(fs::exists(folder_ / "run" / "run.json"));
  EXPECT_FALSE(fs::is_empty(folder_ / "t")) << "nobody was there to remove it";
  ASSERT_EQ(moecheck({"run", kCase, "--out", "next"}).exit_code, 0);
  EXPECT_TRUE(fs::is_empty(folder_ / "t")) << "the next driver removes what was left";
}

TEST_F(Interrupted, ByTheDeathOfTheDriverStillReportsTheCasesThatEnded) {
  auto process = start({"run", unruly_case("honest"), unruly_case("hang.1.forward"), "--subject", MOECHECK_UNRULY_SUBJECT, "--out", "run"});
  ASSERT_TRUE(eventually([this] { return read("run/events.jsonl").find("\"verdict\":\"pass\"") != std::string::npos; }));
  ::kill(process.pid(), SIGKILL);
  ASSERT_TRUE(process.wait_for(launch::kLongEnough));
  EXPECT_EQ(moecheck({"report", "run", "--report", "json"}).exit_code, 0);
  EXPECT_THAT(read("run/report.json"), AllOf(HasSubstr("\"id\": \"impl=honest"), testing::Not(HasSubstr("\"id\": \"impl=hang"))));
  EXPECT_TRUE(is_all_gone());
}

// A forward that takes long, so that what happens after its load happens in it.
const std::string kLongForward = std::string(kCase) + " d_model=256 d_ff=512 tokens=12000";

TEST_F(Interrupted, ARankThatIsStoppedIsATimeoutThatNamesTheCollective) {
  auto process = start({"run", kLongForward, kCase, "--timeout", "6", "--out", "run"});
  ASSERT_TRUE(eventually([this] { return rank_process(1) > 0; }));
  const int stopped = rank_process(1);
  ASSERT_TRUE(eventually([this] { return exists_in_scratch("w0/trace/load/rank1.safetensors") && exists_in_scratch("w0/trace/load/rank0.safetensors"); }));
  ::kill(stopped, SIGSTOP);
  EXPECT_EQ(finish(process).exit_code, 1);
  const Json cases = record_of()["cases"];
  EXPECT_EQ(cases[0]["verdict"], "timeout") << cases[0]["reason"];
  EXPECT_THAT(cases[0]["reason"].get<std::string>(), AllOf(HasSubstr("no reply to forward within 6.0 s"), HasSubstr("rank 0 waits in all_reduce over ep"), HasSubstr("rank 1")));
  EXPECT_EQ(cases[1]["verdict"], "pass") << "the next case is none the worse: " << cases[1]["reason"];
  EXPECT_TRUE(is_all_gone());
}

TEST_F(Interrupted, ARankThatIsKilledIsACrashThatNamesTheSignal) {
  auto process = start({"run", kLongForward, kCase, "--out", "run"});
  ASSERT_TRUE(eventually([this] { return rank_process(1) > 0; }));
  const int killed = rank_process(1);
  ASSERT_TRUE(eventually([this] { return exists_in_scratch("w0/trace/load/rank1.safetensors"); }));
  ::kill(killed, SIGKILL);
  EXPECT_EQ(finish(process).exit_code, 1);
  const Json cases = record_of()["cases"];
  EXPECT_EQ(cases[0]["verdict"], "crash") << cases[0]["reason"];
  EXPECT_THAT(cases[0]["reason"].get<std::string>(), AllOf(HasSubstr("rank 1"), HasSubstr("signal 9 (Killed)")));
  EXPECT_EQ(cases[1]["verdict"], "pass") << "the next case is none the worse: " << cases[1]["reason"];
  EXPECT_TRUE(is_all_gone());
}

}  // namespace
}  // namespace moecheck::cli
