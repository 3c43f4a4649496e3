#include "harness/checkpoint/diff.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include "harness/checkpoint/expert_census.h"
#include "tests/unit/checkpoint/checkpoint_fixture.h"

namespace moecheck::checkpoint {
namespace {

using base::DType;
using testing::ElementsAre;

class DiffOf : public CheckpointFolders {
 protected:
  Checkpoint read(const std::string& name) const { return read_checkpoint(path(name)).value(); }

  Diff diff_of(const std::vector<trace::NamedTensor>& a, const std::vector<trace::NamedTensor>& b, const Equality& equality = {}) const {
    write_tensors("a.safetensors", a);
    write_tensors("b.safetensors", b);
    return diff(read("a.safetensors"), read("b.safetensors"), equality);
  }

  static std::vector<std::string> rows_of(const Diff& result) {
    std::vector<std::string> rows;
    for (const TensorDifference& one : result.tensors)
      rows.push_back(fmt::format("{} {}{}", kind_name(one.kind), one.name, one.is_explained ? " explained" : ""));
    return rows;
  }
};

// Content that belongs to an expert: far from that of any other.
base::HostTensor expert(int e) {
  base::HostTensor tensor(DType::kF32, {2, 3});
  for (std::int64_t i = 0; i < 6; ++i) tensor.set(i, (e + i) % 5 == 0 ? 100 + e : -3 * e);
  return tensor;
}

std::vector<trace::NamedTensor> experts(const std::vector<int>& contents) {
  std::vector<trace::NamedTensor> tensors;
  for (std::size_t e = 0; e < contents.size(); ++e) tensors.push_back({fmt::format("m.experts.{}.up", e), expert(contents[e])});
  return tensors;
}

trace::NamedTensor packed(const std::vector<int>& contents) {
  base::HostTensor all(DType::kF32, {static_cast<std::int64_t>(contents.size()), 2, 3});
  for (std::size_t e = 0; e < contents.size(); ++e) {
    base::HostTensor slice(DType::kF32, {1, 2, 3});
    for (std::int64_t i = 0; i < 6; ++i) slice.set(i, expert(contents[e]).at(i));
    copy_into(all, {{static_cast<std::int64_t>(e), 0, 0}, {1, 2, 3}}, slice);
  }
  return {"m.experts.up", all};
}

TEST_F(DiffOf, EqualCheckpointsSaysHowMuchItCompared) {
  const Diff result = diff_of(experts({0, 1}), experts({0, 1}));
  EXPECT_TRUE(result.is_equal());
  EXPECT_EQ(result.num_tensors, 2);
  EXPECT_EQ(result.num_compared, 2);
  EXPECT_EQ(result.num_elements, 12);
}

TEST_F(DiffOf, NamesEveryKindTheMostImportantFirst) {
  const auto r = [](DType dtype, base::Shape shape, double first = 0) { return ramp(dtype, std::move(shape), first); };
  const Diff result = diff_of({{"dtype", r(DType::kF32, {2})}, {"gone", r(DType::kF32, {2})}, {"same", r(DType::kF32, {2})},
                               {"shape", r(DType::kF32, {2})}, {"values", r(DType::kF32, {2})}},
                              {{"dtype", r(DType::kBF16, {2})}, {"new", r(DType::kF32, {2})}, {"same", r(DType::kF32, {2})},
                               {"shape", r(DType::kF32, {1, 2})}, {"values", r(DType::kF32, {2}, 1)}});
  EXPECT_THAT(rows_of(result), ElementsAre("missing gone", "extra new", "shape shape", "dtype dtype", "values values"));
  EXPECT_FALSE(result.tensors[2].figures) << "never reshaped to fit";
  EXPECT_EQ(result.tensors[3].figures->different, 0) << "another dtype differs though its values do not";
  EXPECT_EQ(result.tensors[4].figures->max_abs, 1);
}

TEST_F(DiffOf, ToleranceAppliesToValues) {
  const std::vector<trace::NamedTensor> a = {{"w", ramp(DType::kF64, {3}, 1)}};
  const std::vector<trace::NamedTensor> b = {{"w", ramp(DType::kF64, {3}, 1.001)}};
  EXPECT_FALSE(diff_of(a, b).is_equal());
  EXPECT_TRUE(diff_of(a, b, {0.01, false}).is_equal());
}

TEST_F(DiffOf, PermutedExpertsNamesThem) {
  const Diff result = diff_of(experts({0, 1, 2, 3}), experts({1, 0, 2, 3}));
  EXPECT_THAT(rows_of(result), ElementsAre("values m.experts.0.up explained", "values m.experts.1.up explained"));
  ASSERT_EQ(result.experts.size(), 1U);
  EXPECT_EQ(result.experts[0].group, "m.experts");
  EXPECT_EQ(match_text(result.experts[0].match), "permuted: 0<->1");
}

TEST_F(DiffOf, PackedExpertsNamesThemToo) {
  const Diff swapped = diff_of({packed({0, 1, 2})}, {packed({0, 2, 1})});
  EXPECT_THAT(rows_of(swapped), ElementsAre("values m.experts.up explained"));
  EXPECT_EQ(match_text(swapped.experts.at(0).match), "permuted: 1<->2");
  const Diff halved = diff_of({packed({0, 1, 2, 3})}, {packed({2, 3})});
  EXPECT_THAT(rows_of(halved), ElementsAre("shape m.experts.up explained"));
  EXPECT_EQ(match_text(halved.experts.at(0).match), "experts 2..3 of A are experts 0..1 of B; nowhere in B: experts 0..1 of A");
}

TEST_F(DiffOf, RenumberedExpertsExplainsMissingOnes) {
  const Diff result = diff_of(experts({0, 1, 2, 3}), experts({2, 3}));
  EXPECT_THAT(rows_of(result), ElementsAre("missing m.experts.2.up explained", "missing m.experts.3.up explained",
                                           "values m.experts.0.up explained", "values m.experts.1.up explained"));
}

TEST_F(DiffOf, ExpertsMovedAndDamagedExplainsOnlyTheMoved) {
  auto b = experts({1, 0, 2});
  b[2].tensor = ramp(DType::kF32, {2, 3}, 900, -77);
  const Diff result = diff_of(experts({0, 1, 2}), b);
  EXPECT_THAT(rows_of(result), ElementsAre("values m.experts.0.up explained", "values m.experts.1.up explained", "values m.experts.2.up"));
  const Diff whole = diff_of({packed({0, 1, 2})}, {packed({1, 0, 9})});
  EXPECT_THAT(rows_of(whole), ElementsAre("values m.experts.up")) << "slice 2 differs, and no move says why";
}

TEST_F(DiffOf, PartsThatMovedApartAreNamedApart) {
  auto a = experts({0, 1});
  auto b = experts({1, 0});
  for (int e = 0; e < 2; ++e) {
    a.push_back({fmt::format("m.experts.{}.down", e), expert(10 + e)});
    b.push_back({fmt::format("m.experts.{}.down", e), expert(10 + e)});
  }
  const Diff result = diff_of(a, b);
  ASSERT_EQ(result.experts.size(), 1U);
  EXPECT_THAT(result.experts[0].parts, ElementsAre("up"));
  EXPECT_FALSE(result.experts[0].is_whole_group);
}

TEST_F(DiffOf, ShardedAndWholeFormsOfOneModelAreEqual) {
  write_sharded("sharded");
  write_tensors("whole/model.safetensors", {{"experts/w", ramp(DType::kF32, {4, 3, 5}, 0)}, {"router/w", ramp(DType::kBF16, {4, 5}, 1)}});
  const Diff result = diff(read("sharded"), read("whole"), {0, true});
  EXPECT_TRUE(result.is_equal());
  EXPECT_EQ(result.num_elements, 80);
}

TEST_F(DiffOf, CensusListsExpertsOfEachFile) {
  write_sharded("sharded");
  const auto files = experts_by_file(read("sharded"));
  EXPECT_EQ(experts_text(files.at("rank0.safetensors")), "0..1");
  EXPECT_EQ(experts_text(files.at("rank3.safetensors")), "2..3");
  write_indexed("indexed");
  EXPECT_EQ(experts_text(experts_by_file(read("indexed")).at("model-00002-of-00002.safetensors")), "2..3");
}

}  // namespace
}  // namespace moecheck::checkpoint
