#include "harness/trace/trace.h"

#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "harness/trace/tap_points.h"

namespace moecheck::trace {
namespace {

using base::DType;
using base::HostTensor;
using testing::HasSubstr;

class TraceFolder : public testing::Test {
 protected:
  TraceFolder() : folder_(std::filesystem::path(testing::TempDir()) / ("moecheck_trace_folder_" + std::to_string(::getpid()))) {}
  ~TraceFolder() override { std::filesystem::remove_all(folder_); }

  void write(std::string_view phase, const RankTrace& rank) const { ASSERT_TRUE(write_rank_phase(folder_, phase, rank, {{"ep", rank.rank}})); }

  void write_raw(const std::string& phase, const std::string& metadata) const {
    std::filesystem::create_directories(folder_ / phase);
    ASSERT_TRUE(write_safetensors(folder_ / phase / "rank0.safetensors", {{"x", HostTensor(DType::kF32, {2})}}, {{"moecheck", metadata}}));
  }

  std::filesystem::path folder_;
};

Tapped tapped(double value, model::Placement placement = model::replicate(), std::string mesh_dim = "", base::Shape global = {2, 3}) {
  HostTensor tensor(DType::kF32, {2, 3});
  tensor.set(1, value);
  return {tensor, placement, std::move(mesh_dim), std::move(global)};
}

RankTrace rank_trace(model::Dim rank) {
  RankTrace trace;
  trace.rank = rank;
  trace.implementation = "ep_allreduce";
  trace.experts_backend = "eager";
  return trace;
}

TEST_F(TraceFolder, RoundTripsTensorsAndWhereTheyLie) {
  RankTrace rank = rank_trace(0);
  rank.taps["router/logits_TE"] = tapped(1);
  rank.taps["param/experts/down_EDF"] = tapped(2, model::shard(0), "ep", {4, 3});
  rank.taps["experts/gate_up_RG"] = tapped(3, model::strided_shard(1, 2), "tp", {2, 6});
  rank.taps["combine/partial_TD"] = tapped(4, model::partial(), "ep");
  write("forward", rank);
  const Trace trace = read_trace(folder_, {"forward"}, 1).value();
  ASSERT_EQ(trace.ranks.size(), 1U);
  const RankTrace& read = trace.ranks[0];
  EXPECT_EQ(read.taps.size(), rank.taps.size());
  for (const auto& [name, was] : rank.taps) {
    const Tapped* is = read.find(name);
    ASSERT_NE(is, nullptr) << name;
    EXPECT_TRUE(base::same_bytes(is->tensor, was.tensor)) << name;
    EXPECT_EQ(is->placement, was.placement) << name;
    EXPECT_EQ(is->mesh_dim, was.mesh_dim) << name;
    EXPECT_EQ(is->global_shape, was.global_shape) << name;
  }
  EXPECT_EQ(read.implementation, "ep_allreduce");
  EXPECT_EQ(read.experts_backend, "eager");
  EXPECT_FALSE(read.aborted);
}

TEST_F(TraceFolder, MergesPhasesAndKeepsTheTapsOfTheLaterOne) {
  RankTrace load = rank_trace(0), forward = rank_trace(0);
  load.taps["param/router/w_ED"] = tapped(1);
  load.taps["input/x_TD"] = tapped(2);
  forward.taps["input/x_TD"] = tapped(3);
  write("load", load);
  write("forward", forward);
  const Trace trace = read_trace(folder_, {"load", "forward"}, 1).value();
  EXPECT_EQ(trace.ranks[0].taps.size(), 2U);
  EXPECT_EQ(trace.ranks[0].tensor("input/x_TD")->at(1), 3.0);
}

TEST_F(TraceFolder, RemembersThatAPhaseWasAborted) {
  RankTrace load = rank_trace(0), forward = rank_trace(0);
  load.aborted = true;
  load.taps["param/router/w_ED"] = tapped(1);
  write("load", load);
  write("forward", forward);
  const Trace trace = read_trace(folder_, {"load", "forward"}, 1).value();
  EXPECT_TRUE(trace.ranks[0].aborted);
  EXPECT_NE(trace.ranks[0].find("param/router/w_ED"), nullptr);
  EXPECT_FALSE(read_trace(folder_, {"forward"}, 1).value().ranks[0].aborted);
}

TEST_F(TraceFolder, LeavesARankWithoutAFileEmpty) {
  RankTrace only = rank_trace(1);
  only.taps["input/x_TD"] = tapped(1);
  write("forward", only);
  const Trace trace = read_trace(folder_, {"load", "forward"}, 3).value();
  ASSERT_EQ(trace.ranks.size(), 3U);
  EXPECT_TRUE(trace.ranks[0].taps.empty());
  EXPECT_EQ(trace.ranks[1].taps.size(), 1U);
  EXPECT_TRUE(trace.ranks[2].taps.empty());
  EXPECT_EQ(trace.ranks[2].rank, 2);
}

TEST_F(TraceFolder, TakesAFileWithoutMetadataAsReplicated) {
  std::filesystem::create_directories(folder_ / "forward");
  ASSERT_TRUE(write_safetensors(folder_ / "forward" / "rank0.safetensors", {{"x", HostTensor(DType::kF32, {2})}}, {}));
  const Trace trace = read_trace(folder_, {"forward"}, 1).value();
  EXPECT_EQ(trace.ranks[0].find("x")->placement, model::replicate());
  EXPECT_EQ(trace.ranks[0].find("x")->global_shape, (base::Shape{2}));
}

TEST_F(TraceFolder, RefusesMetadataThatIsNotWhatItShouldBe) {
  for (const char* metadata : {"not json", R"({"aborted": "yes"})", R"({"taps": {"x": {"placement": "Sharded"}}})",
                               R"({"taps": {"x": {"placement": 3}}})", R"({"taps": {"x": {"global_shape": "wide"}}})", R"({"taps": 5})", "[]"}) {
    write_raw("forward", metadata);
    const auto trace = read_trace(folder_, {"forward"}, 1);
    ASSERT_FALSE(trace) << metadata;
    EXPECT_EQ(trace.error().code, base::ErrorCode::kDamaged) << metadata;
    EXPECT_THAT(trace.error().text(), HasSubstr("rank0.safetensors")) << metadata;
  }
}

TEST_F(TraceFolder, FindsNothingUnderAnUnknownName) {
  const RankTrace rank = rank_trace(0);
  EXPECT_EQ(rank.find("router/logits_TE"), nullptr);
  EXPECT_EQ(rank.tensor("router/logits_TE"), nullptr);
}

TEST(TapPoints, AreInStageOrderWithoutRepetition) {
  std::set<std::string_view> names;
  for (const TapPoint& tap : tap_points()) EXPECT_TRUE(names.insert(tap.name).second) << tap.name;
  const std::vector<std::string_view> order = {"param/router/w_ED",   "input/x_TD",      "router/logits_TE",  "router/ids_TK",
                                               "dispatch/rows_R3",    "experts/gate_up_RG", "experts/act_RF", "experts/out_RD",
                                               "combine/partial_TD",  "output/y_TD"};
  for (std::size_t i = 1; i < order.size(); ++i) EXPECT_LT(stage_index(order[i - 1]), stage_index(order[i])) << order[i];
  EXPECT_EQ(stage_index("unknown"), tap_points().size());
  EXPECT_EQ(find_tap("unknown"), nullptr);
  EXPECT_EQ(find_tap("output/y_TD")->name, "output/y_TD");
}

TEST(TapPoints, EndTheirNamesWithTheirDims) {
  for (const TapPoint& tap : tap_points()) {
    std::string dims(tap.dims);
    std::erase(dims, ' ');
    EXPECT_TRUE(tap.name.ends_with("_" + dims)) << tap.name;
  }
}

}  // namespace
}  // namespace moecheck::trace
