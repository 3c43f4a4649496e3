// The other ways in which ranks come to be: forked by a subject's server, started by a launcher, given a case whole. What is said of a
// rank that misbehaves, and that nothing of it stays, does not depend on the way.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <utility>

#include <gmock/gmock.h>

#include "harness/launch/launcher.h"
#include "launch_fixture.h"

namespace moecheck::launch {
namespace {

using std::chrono::milliseconds;
using testing::AllOf;
using testing::AnyOf;
using testing::HasSubstr;

constexpr milliseconds kShort{700};   // for ranks that never answer

// As mpirun: ranks that know themselves by its variables, and an end when one of them ends badly.
constexpr const char* kLauncher = R"(
for r in $(seq 0 $(($1 - 1))); do (export OMPI_COMM_WORLD_RANK=$r OMPI_COMM_WORLD_LOCAL_RANK=$r OMPI_COMM_WORLD_SIZE=$1; shift; exec "$@") & done
for r in $(seq 0 $(($1 - 1))); do wait -n || { echo "a rank failed"; kill $(jobs -p) 2>/dev/null; exit 1; }; done)";
// Somebody who is no rank comes first.
const std::string kStranger =
    R"(exec 3<>/dev/tcp/127.0.0.1/${MOECHECK_SOCKET##*:}; echo '{"event":"hello","protocol":1,"rank":0,"token":"guessed"}' >&3; )";

std::vector<std::string> launcher_words(const std::string& script, const std::string& num_ranks) {
  return {"/bin/bash", "-c", script, "launcher", num_ranks};
}

struct Way {
  std::string name;
  std::vector<std::string> prefix = {};
  std::string listen = {};
  bool forks_ranks = false;
  bool is_at_once = false;

  bool tells_exits() const { return prefix.empty(); }   // else only the launcher knows
};

void PrintTo(const Way& way, std::ostream* out) { *out << way.name; }

class WayTest : public TemporaryFolder {
 protected:
  std::unique_ptr<Launcher> launcher_of(const Way& way, const std::string& start_misdeed = "", milliseconds start_limit = kLongEnough) {
    LauncherOptions options{{MOECHECK_UNRULY_SUBJECT}, folder_ / ("way" + start_misdeed), false, start_limit};
    if (!start_misdeed.empty()) options.command.push_back(start_misdeed);
    options.prefix = way.prefix;
    options.listen = way.listen;
    options.forks_ranks = way.forks_ranks;
    options.is_at_once = way.is_at_once;
    return make_process_launcher(std::move(options));
  }
  CaseRun run(Launcher& launcher, const std::string& impl, milliseconds limit = kLongEnough) {
    const auto one = cases::make_case({{"impl", impl}, {"model", "tiny"}, {"mesh", "ep=2"}, {"phases", "load,forward"}}, tiny_family);
    return launcher.run(one.value(), {folder_ / "checkpoint", folder_ / "trace"}, limit);
  }
  // Processes of the subject that this test started.
  int num_left() const {
    int left = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      const int pid = std::atoi(entry.path().filename().c_str());
      if (pid > 0 && is_running(pid) && text_of(entry.path() / "environ").find(folder_.string()) != std::string::npos) ++left;
    }
    return left;
  }
};

class AnyWay : public WayTest, public testing::WithParamInterface<Way> {};

TEST_P(AnyWay, RunsCaseAfterCase) {
  const auto launcher = launcher_of(GetParam());
  for (int i = 0; i < 2; ++i) {
    const CaseRun run = this->run(*launcher, "honest");
    EXPECT_EQ(run.end, RunEnd::kCompleted) << run.reason;
    EXPECT_TRUE(std::filesystem::exists(folder_ / "trace" / "forward" / "rank1.safetensors"));
    std::filesystem::remove_all(folder_ / "trace");
  }
}

TEST_P(AnyWay, NamesTheRankThatCrashedAndTheNextCaseIsFine) {
  const auto launcher = launcher_of(GetParam());
  const CaseRun crashed = run(*launcher, "segv.1.forward");
  EXPECT_EQ(crashed.end, RunEnd::kCrashed) << crashed.reason;
  const auto how = GetParam().tells_exits() ? "rank 1 ended in forward with signal 11"
                   : GetParam().is_at_once ? "the launcher ended with exit code 1 before rank "
                                           : "rank 1 closed its socket in forward";
  EXPECT_THAT(crashed.reason, HasSubstr(how));
  if (!GetParam().tells_exits()) {
    EXPECT_THAT(crashed.reason, HasSubstr("a rank failed"));
  }
  EXPECT_LT(crashed.seconds, 10);
  const CaseRun next = run(*launcher, "honest");
  EXPECT_EQ(next.end, RunEnd::kCompleted) << next.reason;
}

TEST_P(AnyWay, NamesTheRankThatHangsAndLeavesNothingRunning) {
  auto launcher = launcher_of(GetParam());
  const CaseRun hung = run(*launcher, "hang_ignoring_sigterm.1.forward", kShort);
  EXPECT_EQ(hung.end, RunEnd::kTimedOut) << hung.reason;
  EXPECT_THAT(hung.reason, HasSubstr("rank 1 waits outside of a collective"));
  launcher.reset();
  EXPECT_TRUE(eventually([&] { return num_left() == 0; }));
}

TEST_P(AnyWay, TellsWhatWasRaised) {
  const auto launcher = launcher_of(GetParam());
  const CaseRun raised = run(*launcher, "raise.0.forward");
  EXPECT_EQ(raised.end, RunEnd::kRaised);
  EXPECT_THAT(raised.reason, HasSubstr("rank 0 in forward: says error"));
}

TEST_P(AnyWay, TellsBothRanksThatDiverged) {
  const auto launcher = launcher_of(GetParam());
  const CaseRun diverged = run(*launcher, "other_count.1.forward");
  EXPECT_EQ(diverged.end, RunEnd::kDiverged) << diverged.reason;
  EXPECT_THAT(diverged.reason, AllOf(HasSubstr("of 30 fp32"), HasSubstr("of 35 fp32")));
}

const Way kForked{.name = "forked", .forks_ranks = true};
const Way kLaunched{.name = "launched", .prefix = launcher_words(kLauncher, "{ranks}")};
const Way kLaunchedFar{.name = "launched_over_tcp", .prefix = launcher_words(kStranger + kLauncher, "{ranks}"), .listen = "127.0.0.1"};
const Way kAtOnce{.name = "at_once", .is_at_once = true};
const Way kLaunchedAtOnce{.name = "launched_at_once", .prefix = launcher_words(kLauncher, "{ranks}"), .is_at_once = true};

INSTANTIATE_TEST_SUITE_P(Launch, AnyWay, testing::Values(kForked, kLaunched, kLaunchedFar, kAtOnce, kLaunchedAtOnce),
                         [](const auto& row) { return row.param.name; });

TEST_F(WayTest, ALauncherThatStartsTooFewRanksIsToldWhichAreMissing) {
  Way way = kLaunched;
  way.prefix = launcher_words(R"(export RANK=1 WORLD_SIZE=2; shift; exec "$@")", "2");
  const auto launcher = launcher_of(way, "", kShort);
  const CaseRun broken = run(*launcher, "honest");
  EXPECT_EQ(broken.end, RunEnd::kBroken);
  EXPECT_THAT(broken.reason, HasSubstr("missing: 0"));
}

TEST_F(WayTest, ALauncherThatIsToldAnotherNumberOfRanksIsToldTheRightOne) {
  Way way = kLaunched;
  way.prefix = launcher_words(kLauncher, "3");
  EXPECT_THAT(run(*launcher_of(way), "honest").reason, AllOf(HasSubstr("of 3, and the case has 2 ranks"), HasSubstr("{ranks}")));
}

TEST_F(WayTest, ALauncherThatFailsIsToldWithItsOutput) {
  Way way = kLaunched;
  way.prefix = {"/bin/bash", "-c", "echo no such host; exit 3", "launcher"};
  const auto launcher = launcher_of(way);
  EXPECT_THAT(run(*launcher, "honest").reason, AllOf(HasSubstr("exit code 3"), HasSubstr("no such host")));
}

// So srun gives back the nodes that it was given.
TEST_F(WayTest, ALauncherWhoseRanksDoNotComeIsAskedToEndBeforeItIsKilled) {
  Way way = kLaunched;
  way.prefix = {"/bin/bash", "-c", "trap 'touch " + (folder_ / "asked").string() + "; exit 1' TERM; sleep 60 & wait", "launcher"};
  const auto launcher = launcher_of(way, "", kShort);
  EXPECT_EQ(run(*launcher, "honest").end, RunEnd::kBroken);
  EXPECT_TRUE(std::filesystem::exists(folder_ / "asked"));
}

TEST_F(WayTest, RanksThatTakeThemselvesForAnotherAreRefused) {
  EXPECT_THAT(run(*launcher_of(kLaunched, "both_are_rank_1"), "honest").reason, HasSubstr("started rank 1 twice"));
  EXPECT_THAT(run(*launcher_of(kLaunched, "rank_of_another_world"), "honest").reason, AnyOf(HasSubstr("a rank 2 of 2"), HasSubstr("a rank 3 of 2")));
}

TEST_F(WayTest, TheRanksOfALauncherThatStartedTheDriverAreNotTakenForOurs) {
  constexpr std::array kForeign = {std::pair{"RANK", "7"}, std::pair{"WORLD_SIZE", "8"}, std::pair{"OMPI_COMM_WORLD_RANK", "0"},
                                   std::pair{"OMPI_COMM_WORLD_SIZE", "1"}, std::pair{"PMI_RANK", "0"}, std::pair{"PMI_SIZE", "1"}};
  Way way = kLaunched;   // as srun, whose variables are looked for last
  way.prefix = launcher_words(R"(for r in 0 1; do SLURM_PROCID=$r SLURM_NTASKS=2 "${@:2}" & done; wait)", "{ranks}");
  for (const auto& [name, value] : kForeign) ::setenv(name, value, 1);
  const CaseRun run = this->run(*launcher_of(way), "honest");
  for (const auto& [name, value] : kForeign) ::unsetenv(name);
  EXPECT_EQ(run.end, RunEnd::kCompleted) << run.reason;
}

TEST_F(WayTest, AServerThatEndsIsTold) {
  const CaseRun broken = run(*launcher_of(kForked, "server_ends"), "honest");
  EXPECT_EQ(broken.end, RunEnd::kBroken);
  EXPECT_THAT(broken.reason, HasSubstr("the server that forks ranks ended at start with exit code 5"));
}

TEST_F(WayTest, RanksThatSayNothingAndEndWellDidWhatTheyWereTold) {
  const CaseRun run = this->run(*launcher_of(kAtOnce, "silent_at_once"), "honest");
  EXPECT_EQ(run.end, RunEnd::kCompleted) << run.reason;
}

TEST_F(WayTest, AnAddressThatIsNoneIsRefusedWithTheRemedy) {
  Way way = kLaunched;
  way.listen = "no.such.host.invalid";
  EXPECT_THAT(run(*launcher_of(way), "honest").reason, HasSubstr("expected an address of this machine"));
}

}  // namespace
}  // namespace moecheck::launch
