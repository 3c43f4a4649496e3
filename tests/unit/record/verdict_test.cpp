#include "harness/record/verdict.h"

#include <set>
#include <string>

#include <gtest/gtest.h>

#include "harness/record/finding.h"

namespace moecheck::record {
namespace {

TEST(Verdicts, TheZeroValueIsUntestedAndAFailure) {
  EXPECT_EQ(Verdict{}, Verdict::kUntested);
  EXPECT_TRUE(is_failure(Verdict{}));
}

TEST(Verdicts, EveryNameReadsBackAndHasAMeaning) {
  std::set<std::string_view> names;
  for (const Verdict verdict : all_verdicts()) {
    EXPECT_EQ(verdict_from_name(verdict_name(verdict)), verdict);
    EXPECT_GT(verdict_meaning(verdict).size(), 10U) << verdict_name(verdict);
    names.insert(verdict_name(verdict));
  }
  EXPECT_EQ(names.size(), all_verdicts().size());
}

TEST(Verdicts, AreThoseOfTheDesign) {
  std::vector<std::string_view> names;
  for (const Verdict verdict : all_verdicts()) names.push_back(verdict_name(verdict));
  EXPECT_EQ(names, (std::vector<std::string_view>{"untested", "pass", "fail", "error", "crash", "timeout", "skipped",
                                                  "unsupported", "xfail", "xpass", "vacuous", "flaky", "inconclusive"}));
}

TEST(Verdicts, SevenOfThemFailARun) {
  std::set<std::string_view> failing;
  for (const Verdict verdict : all_verdicts())
    if (is_failure(verdict)) failing.insert(verdict_name(verdict));
  EXPECT_EQ(failing, (std::set<std::string_view>{"crash", "fail", "flaky", "timeout", "untested", "vacuous", "xpass"}));
}

TEST(Verdicts, AnUnknownNameIsNone) {
  EXPECT_EQ(verdict_from_name("PASS"), std::nullopt);
  EXPECT_EQ(verdict_from_name(""), std::nullopt);
}

TEST(Findings, BugAndContractFailACaseAndTheOthersInform) {
  std::set<std::string_view> failing;
  for (const FindingClass cls : {FindingClass::kBug, FindingClass::kContract, FindingClass::kBenignFlip, FindingClass::kNoise,
                                 FindingClass::kInconclusive}) {
    Finding finding;
    finding.cls = cls;
    if (is_failure(finding)) failing.insert(class_name(cls));
  }
  EXPECT_EQ(failing, (std::set<std::string_view>{"bug", "contract"}));
}

}  // namespace
}  // namespace moecheck::record
