// Which rank a process is under each launcher.
#include "harness/subject/rank_place.h"

#include <map>

#include <gmock/gmock.h>

namespace moecheck::subject {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::IsSupersetOf;
using testing::Not;

Environment of(std::map<std::string, std::string> variables) {
  return [variables = std::move(variables)](const std::string& name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  };
}

TEST(RankPlaceTest, IsWhatTorchrunSays) {
  EXPECT_EQ(rank_place(of({{"RANK", "5"}, {"LOCAL_RANK", "1"}, {"WORLD_SIZE", "8"}})).value(), (RankPlace{5, 1, 8}));
}

TEST(RankPlaceTest, IsWhatMpirunSays) {
  EXPECT_EQ(rank_place(of({{"OMPI_COMM_WORLD_RANK", "3"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "4"}})).value(), (RankPlace{3, 0, 4}));
  EXPECT_EQ(rank_place(of({{"PMI_RANK", "2"}, {"MPI_LOCALRANKID", "1"}, {"PMI_SIZE", "4"}})).value(), (RankPlace{2, 1, 4}));
}

TEST(RankPlaceTest, IsWhatSrunSays) {
  EXPECT_EQ(rank_place(of({{"SLURM_PROCID", "6"}, {"SLURM_LOCALID", "2"}, {"SLURM_NTASKS", "8"}})).value(), (RankPlace{6, 2, 8}));
}

TEST(RankPlaceTest, IsMpirunsWithinAnAllocationOfSlurm) {
  EXPECT_EQ(rank_place(of({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "1"}, {"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "2"}})).value().rank, 1);
}

TEST(RankPlaceTest, IsKeptFromOtherLaunchersButNotFromSrunWhichReadsIt) {
  EXPECT_THAT(rank_variables(), IsSupersetOf({"RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMI_SIZE"}));
  EXPECT_THAT(rank_variables(), Not(Contains(HasSubstr("SLURM"))));
}

TEST(RankPlaceTest, TakesTheRankForTheLocalOneWhereThatIsNotSaid) {
  EXPECT_EQ(rank_place(of({{"SLURM_PROCID", "3"}, {"SLURM_NTASKS", "4"}})).value().local_rank, 3);
}

TEST(RankPlaceTest, RefusesAnEnvironmentWithoutALauncherAndNamesWhatIsMissing) {
  EXPECT_THAT(rank_place(of({})).error().text(), HasSubstr("RANK: is not set"));
  EXPECT_THAT(rank_place(of({{"RANK", "0"}})).error().text(), HasSubstr("WORLD_SIZE: is not set"));
  EXPECT_THAT(rank_place(of({{"RANK", "one"}, {"WORLD_SIZE", "2"}})).error().text(), HasSubstr("RANK: is 'one'"));
  EXPECT_THAT(rank_place(of({{"RANK", "2"}, {"WORLD_SIZE", "2"}})).error().text(), HasSubstr("RANK: is 2, and WORLD_SIZE is 2"));
}

}  // namespace
}  // namespace moecheck::subject
