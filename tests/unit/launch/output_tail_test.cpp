#include "harness/launch/output_tail.h"

#include <gmock/gmock.h>

#include "launch_fixture.h"

namespace moecheck::launch {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;

class OutputTailTest : public TemporaryFolder {
 protected:
  std::string tail_of(const std::string& output) const {
    std::ofstream(folder_ / "log", std::ios::binary) << output;
    return output_tail(folder_ / "log");
  }
};

TEST_F(OutputTailTest, JoinsLinesAndLeavesEmptyOnesOut) { EXPECT_EQ(tail_of("one\n\ntwo\n"), "one | two"); }

TEST_F(OutputTailTest, IsTheEndOfALongOutput) {
  const std::string tail = tail_of(std::string(100'000, 'x') + "\nthe last word\n");
  EXPECT_THAT(tail, EndsWith(" | the last word"));
  EXPECT_LE(tail.size(), 600U);
}

TEST_F(OutputTailTest, TellsTheMessageAboveALongStackTrace) {
  std::string output = "terminate called after throwing an instance of 'c10::Error'\n  what():  no such device\nException raised from here (most recent call first):\n";
  for (int i = 0; i < 30; ++i) output += "frame #" + std::to_string(i) + ": " + std::string(100, 'f') + "\n";
  EXPECT_THAT(tail_of(output), HasSubstr("no such device"));
  EXPECT_THAT(tail_of(output), Not(HasSubstr("frame #")));
}

TEST_F(OutputTailTest, IsEmptyForAFileThatIsNotThere) { EXPECT_EQ(output_tail(folder_ / "absent"), ""); }

}  // namespace
}  // namespace moecheck::launch
