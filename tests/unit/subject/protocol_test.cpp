// What a subject says of itself, and how it is read.
#include <gtest/gtest.h>

#include "harness/subject/protocol.h"

namespace moecheck::subject {
namespace {

Capabilities with_fault(FaultInfo fault) {
  Capabilities capabilities;
  capabilities.protocol = kProtocol;
  capabilities.name = "subject";
  capabilities.faults = {std::move(fault)};
  return capabilities;
}

TEST(Capabilities, KeepWhatAFaultSaysOfItself) {
  const FaultInfo fault{"name", "origin", "summary", "seam", "impl=x", {{"stage_diff", "output/y_TD", 1, std::nullopt}}, true};
  const Capabilities read = capabilities_from_json(to_json(with_fault(fault))).value();
  ASSERT_EQ(read.faults.size(), 1U);
  const FaultInfo& same = read.faults[0];
  EXPECT_EQ(same.name, "name");
  EXPECT_EQ(same.origin, "origin");
  EXPECT_EQ(same.summary, "summary");
  EXPECT_EQ(same.replaces, "seam");
  EXPECT_EQ(same.trigger, "impl=x");
  EXPECT_TRUE(same.is_control);
  ASSERT_EQ(same.expected.size(), 1U);
  EXPECT_EQ(same.expected[0].check, "stage_diff");
  EXPECT_EQ(same.expected[0].stage, "output/y_TD");
  EXPECT_EQ(same.expected[0].rank, 1);
  EXPECT_EQ(same.expected[0].expert, std::nullopt);
}

TEST(Capabilities, TakeAFaultForABugIfItDoesNotSay) {
  base::Json json = to_json(with_fault({"name", "", "", "", "", {}, true}));
  json["faults"][0].erase("control");
  EXPECT_FALSE(capabilities_from_json(json).value().faults.at(0).is_control);
}

}  // namespace
}  // namespace moecheck::subject
