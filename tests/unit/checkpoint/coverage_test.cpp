#include "harness/checkpoint/coverage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace moecheck::checkpoint {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

Shard shard(int rank, base::Shape offset, base::Shape shape, int replica = 0) {
  return {rank_file(rank), "w", {std::move(offset), std::move(shape)}, replica};
}

std::vector<std::string> problems_of(base::Shape shape, std::vector<Shard> shards) {
  Index index;
  index.tensors["w"] = {base::DType::kF32, std::move(shape), std::move(shards)};
  std::vector<std::string> texts;
  for (const Problem& problem : coverage_problems(index)) texts.push_back(problem.text());
  return texts;
}

TEST(Coverage, AcceptsATilingInTwoDimensions) {
  EXPECT_THAT(problems_of({4, 6}, {shard(0, {0, 0}, {2, 6}), shard(1, {2, 0}, {2, 3}), shard(2, {2, 3}, {2, 3})}), IsEmpty());
}

TEST(Coverage, AcceptsAScalarHeldOnceAndAnEmptyTensorHeldByNobody) {
  EXPECT_THAT(problems_of({}, {shard(0, {}, {})}), IsEmpty());
  EXPECT_THAT(problems_of({0, 3}, {}), IsEmpty());
}

TEST(Coverage, NamesTheFirstHole) {
  EXPECT_THAT(problems_of({4, 6}, {shard(0, {0, 0}, {2, 6}), shard(2, {2, 3}, {2, 3})}),
              ElementsAre("index.json: tensor 'w': no shard of replica 0 holds [2:4, 0:3] of shape (4, 6)"));
}

TEST(Coverage, FindsAHoleAndAnOverlapOfTheSameSize) {
  EXPECT_THAT(problems_of({4}, {shard(0, {0}, {2}), shard(1, {1}, {2})}),
              ElementsAre("rank1.safetensors: tensor 'w': [1:3] overlaps [0:2] of rank0.safetensors, both of replica 0",
                          "index.json: tensor 'w': no shard of replica 0 holds [3:4] of shape (4)"));
}

TEST(Coverage, FindsTwoRanksThatBothCallThemselvesReplicaZero) {
  EXPECT_THAT(problems_of({}, {shard(0, {}, {}), shard(1, {}, {})}),
              ElementsAre("rank1.safetensors: tensor 'w': [] overlaps [] of rank0.safetensors, both of replica 0"));
}

TEST(Coverage, NamesARangeOutsideOfTheTensor) {
  EXPECT_THAT(problems_of({4}, {shard(0, {0}, {4}), shard(1, {3}, {2}, 1)}),
              ElementsAre("rank1.safetensors: tensor 'w': range [3:5] is outside of shape (4)"));
  EXPECT_THAT(problems_of({4}, {shard(0, {0, 0}, {4, 1})}), ElementsAre("rank0.safetensors: tensor 'w': range [0:4, 0:1] is outside of shape (4)"));
}

TEST(Coverage, NamesAReplicaOfNoRangeAndAReplicaTwice) {
  EXPECT_THAT(problems_of({4}, {shard(0, {0}, {4}), shard(1, {0}, {3}, 1)}),
              ElementsAre("rank1.safetensors: tensor 'w': replica 1 holds [0:3], which is no range of replica 0"));
  EXPECT_THAT(problems_of({4}, {shard(0, {0}, {4}), shard(1, {0}, {4}, 1), shard(2, {0}, {4}, 1)}),
              ElementsAre("rank2.safetensors: tensor 'w': another file holds replica 1 of [0:4] too"));
}

TEST(Coverage, NamesAReplicaBeyondThoseThatAreThere) {
  EXPECT_THAT(problems_of({4}, {shard(0, {0}, {4}), shard(1, {0}, {4}, 2)}),
              ElementsAre("rank1.safetensors: tensor 'w': is replica 2 of [0:4], which has 1 replicas beside replica 0"));
}

TEST(Coverage, NamesAKeyOfAnotherTensor) {
  for (const char* key : {"v", "w#", "w#x", "w1", "w#1#2"}) {
    Shard other = shard(0, {0}, {4});
    other.key = key;
    EXPECT_THAT(problems_of({4}, {other}), ElementsAre(std::string("rank0.safetensors: tensor 'w': key '") + key + "' is of another tensor"));
  }
  Shard numbered = shard(0, {0}, {4});
  numbered.key = "w#12";
  EXPECT_THAT(problems_of({4}, {numbered}), IsEmpty());
}

TEST(Coverage, NamesAKeyUsedForTwoShards) {
  EXPECT_THAT(problems_of({4}, {shard(0, {0}, {2}), shard(0, {2}, {2})}), ElementsAre("rank0.safetensors: tensor 'w': key 'w' is used for two shards"));
}

}  // namespace
}  // namespace moecheck::checkpoint
