#include "harness/model/mesh.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace moecheck::model {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Mesh mesh(std::string_view text) { return Mesh::parse(text).value(); }

TEST(Mesh, PrintsWhatItParsed) {
  for (const char* text : {"none", "ep=2", "dp=2,ep=4", "ep=2,dp=2", "dp=1,fsdp=2,ep=3,tp=2"}) EXPECT_EQ(mesh(text).text(), text);
}

TEST(Mesh, NoneIsOneRankWithoutDimensions) {
  EXPECT_EQ(mesh("none").world_size(), 1);
  EXPECT_FALSE(mesh("none").has("ep"));
  EXPECT_EQ(mesh("none").size("ep"), 1);
  EXPECT_EQ(mesh("none").coordinate(0, "ep"), 0);
  EXPECT_THAT(mesh("none").group(0, "ep"), ElementsAre(0));
}

TEST(Mesh, FirstDimensionIsOutermost) {
  const Mesh outer_dp = mesh("dp=2,ep=3");
  EXPECT_EQ(outer_dp.world_size(), 6);
  EXPECT_EQ(outer_dp.coordinate(4, "dp"), 1);
  EXPECT_EQ(outer_dp.coordinate(4, "ep"), 1);
  const Mesh outer_ep = mesh("ep=3,dp=2");
  EXPECT_EQ(outer_ep.coordinate(4, "dp"), 0);
  EXPECT_EQ(outer_ep.coordinate(4, "ep"), 2);
}

TEST(Mesh, GroupsRanksThatDifferInOneDimension) {
  const Mesh both = mesh("dp=2,ep=3");
  EXPECT_THAT(both.group(4, "ep"), ElementsAre(3, 4, 5));
  EXPECT_THAT(both.group(4, "dp"), ElementsAre(1, 4));
  EXPECT_THAT(both.group(4, "tp"), ElementsAre(4));
}

TEST(Mesh, GroupIsOrderedByCoordinate) {
  const Mesh three = mesh("dp=2,ep=2,tp=2");
  for (Dim rank = 0; rank < three.world_size(); ++rank) {
    for (const char* dim : {"dp", "ep", "tp"}) {
      const auto group = three.group(rank, dim);
      ASSERT_EQ(group.size(), 2U);
      for (std::size_t c = 0; c < group.size(); ++c) EXPECT_EQ(three.coordinate(group[c], dim), static_cast<Dim>(c));
      EXPECT_EQ(group[static_cast<std::size_t>(three.coordinate(rank, dim))], rank);
    }
  }
}

TEST(Mesh, SeveralDimensionsCountAsOneWithTheFirstNamedOutermost) {
  const Mesh three = mesh("dp=2,ep=3,tp=2");
  EXPECT_EQ(three.size("ep,tp"), 6);
  EXPECT_EQ(three.size("ep,fsdp"), 3) << "a dimension that is not there is one of size 1";
  EXPECT_EQ(three.coordinate(9, "ep,tp"), 3) << "rank 9 is dp 1, ep 1, tp 1";
  EXPECT_EQ(three.coordinate(9, "tp,ep"), 4);
  EXPECT_EQ(three.coordinate(9, "fsdp,tp"), 1);
}

TEST(Mesh, GroupOfSeveralDimensionsIsOrderedByTheirCommonCoordinate) {
  const Mesh three = mesh("dp=2,ep=2,tp=2");
  EXPECT_THAT(three.group(5, "ep,tp"), ElementsAre(4, 5, 6, 7));
  EXPECT_THAT(three.group(5, "tp,ep"), ElementsAre(4, 6, 5, 7));
  EXPECT_THAT(three.group(5, "dp,tp"), ElementsAre(0, 1, 4, 5));
  EXPECT_THAT(three.group(5, "fsdp,tp"), ElementsAre(4, 5));
}

struct Refused {
  const char* text;
  const char* why;
};

class RefusedMesh : public testing::TestWithParam<Refused> {};

TEST_P(RefusedMesh, SaysWhatIsWrong) {
  const auto parsed = Mesh::parse(GetParam().text);
  ASSERT_FALSE(parsed) << GetParam().text;
  EXPECT_EQ(parsed.error().code, base::ErrorCode::kUsage);
  EXPECT_THAT(parsed.error().message, HasSubstr(GetParam().why));
}

INSTANTIATE_TEST_SUITE_P(Mesh, RefusedMesh,
                         testing::Values(Refused{"", "has no size"}, Refused{"ep", "has no size"}, Refused{"ep=2,", "has no size"},
                                         Refused{"eq=2", "did you mean 'ep'"}, Refused{"zebra=2", "known: dp, fsdp, ep, tp"},
                                         Refused{"ep=0", "not a number from 1 to 64"}, Refused{"ep=-2", "not a number from 1"},
                                         Refused{"ep=2x", "not a number from 1"}, Refused{"ep=65", "not a number from 1"},
                                         Refused{"ep=99999999999999999999", "not a number from 1"},
                                         Refused{"ep=2,ep=2", "names dimension ep twice"},
                                         Refused{"dp=16,ep=16", "needs 256 ranks; at most 64"}, Refused{"ep = 2", "unknown mesh dimension"}));

}  // namespace
}  // namespace moecheck::model
