#include "harness/trace/trace.h"

#include <algorithm>
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

  // Of a case with one batch.
  Trace read_one(std::vector<std::string> phases, model::Dim num_ranks) const {
    auto batches = read_trace(folder_, {std::move(phases), num_ranks, 1}).value();
    EXPECT_EQ(batches.size(), 1U);
    return std::move(batches.front());
  }

  std::filesystem::path folder_;
};

Tapped tapped(double value, std::vector<model::Cut> cuts = {}, base::Shape global = {2, 3}) {
  HostTensor tensor(DType::kF32, {2, 3});
  tensor.set(1, value);
  return {tensor, std::move(cuts), std::move(global)};
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
  rank.taps["param/experts/down_EDF"] = tapped(2, {{"ep", model::shard(0)}, {"tp", model::shard(2)}, {"fsdp", model::shard(1)}}, {4, 3});
  rank.taps["experts/gate_up_RG"] = tapped(3, {{"tp", model::strided_shard(1, 2)}}, {2, 6});
  rank.taps["combine/partial_TD"] = tapped(4, {{"ep,tp", model::partial()}});
  write("forward", rank);
  const Trace trace = read_one({"forward"}, 1);
  ASSERT_EQ(trace.ranks.size(), 1U);
  const RankTrace& read = trace.ranks[0];
  EXPECT_EQ(read.taps.size(), rank.taps.size());
  for (const auto& [name, was] : rank.taps) {
    const Tapped* is = read.find(name);
    ASSERT_NE(is, nullptr) << name;
    EXPECT_TRUE(base::same_bytes(is->tensor, was.tensor)) << name;
    EXPECT_EQ(is->cuts, was.cuts) << name;
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
  const Trace trace = read_one({"load", "forward"}, 1);
  EXPECT_EQ(trace.ranks[0].taps.size(), 2U);
  EXPECT_EQ(trace.ranks[0].tensor("input/x_TD")->at(1), 3.0);
}

TEST_F(TraceFolder, RemembersThatAPhaseWasAborted) {
  RankTrace load = rank_trace(0), forward = rank_trace(0);
  load.aborted = true;
  load.taps["param/router/w_ED"] = tapped(1);
  write("load", load);
  write("forward", forward);
  const Trace trace = read_one({"load", "forward"}, 1);
  EXPECT_TRUE(trace.ranks[0].aborted);
  EXPECT_NE(trace.ranks[0].find("param/router/w_ED"), nullptr);
  EXPECT_FALSE(read_one({"forward"}, 1).ranks[0].aborted);
}

TEST_F(TraceFolder, LeavesARankWithoutAFileEmpty) {
  RankTrace only = rank_trace(1);
  only.taps["input/x_TD"] = tapped(1);
  write("forward", only);
  const Trace trace = read_one({"load", "forward"}, 3);
  ASSERT_EQ(trace.ranks.size(), 3U);
  EXPECT_TRUE(trace.ranks[0].taps.empty());
  EXPECT_EQ(trace.ranks[1].taps.size(), 1U);
  EXPECT_TRUE(trace.ranks[2].taps.empty());
  EXPECT_EQ(trace.ranks[2].rank, 2);
}

TEST_F(TraceFolder, TakesAFileWithoutMetadataAsReplicated) {
  std::filesystem::create_directories(folder_ / "forward");
  ASSERT_TRUE(write_safetensors(folder_ / "forward" / "rank0.safetensors", {{"x", HostTensor(DType::kF32, {2})}}, {}));
  const Trace trace = read_one({"forward"}, 1);
  EXPECT_TRUE(trace.ranks[0].find("x")->cuts.empty());
  EXPECT_EQ(trace.ranks[0].find("x")->global_shape, (base::Shape{2}));
}

TEST_F(TraceFolder, RefusesMetadataThatIsNotWhatItShouldBe) {
  for (const char* metadata : {"not json", R"({"aborted": "yes"})", R"({"taps": {"x": {"cuts": [["ep", "Sharded"]]}}})",
                               R"({"taps": {"x": {"cuts": [["ep", 3]]}}})", R"({"taps": {"x": {"cuts": [["ep"]]}}})", R"({"taps": {"x": {"cuts": 3}}})",
                               R"({"plan": [{"pattern": "mlp"}]})", R"({"plan": [{"pattern": "a", "style": "b", "cuts": [["ep", "Sharded"]]}]})",
                               R"({"comm": [{"kind": 5}]})", R"({"comm": [{"count": "many"}]})", R"({"declared_comm": [{"times": []}]})", R"({"taps": {"x": {"global_shape": "wide"}}})", R"({"taps": 5})", "[]"}) {
    write_raw("forward", metadata);
    const auto trace = read_trace(folder_, {{"forward"}, 1, 1});
    ASSERT_FALSE(trace) << metadata;
    EXPECT_EQ(trace.error().code, base::ErrorCode::kDamaged) << metadata;
    EXPECT_THAT(trace.error().text(), HasSubstr("rank0.safetensors")) << metadata;
  }
}

TEST_F(TraceFolder, RoundTripsThePlanOfTheSubject) {
  RankTrace load = rank_trace(0);
  load.plan = {{"layers.*.experts.gate_up", "grouped", {{"ep", model::shard(0)}, {"tp", model::strided_shard(1, 2)}}, {"param/experts/gate_up_EGD"}},
               {"layers.*.norm", "none", {}, {}}};
  write("load", load);
  write("forward", rank_trace(0));
  EXPECT_EQ(read_one({"load", "forward"}, 1).ranks[0].plan, load.plan);
}

Collective all_to_all() { return {"all_to_all", "ep", 3, "", "bf16", 90, 180, {4, 5}, {2, 0}, "experts/in_RD"}; }

TEST_F(TraceFolder, RoundTripsCollectivesInTheOrderOfThePhases) {
  RankTrace load = rank_trace(0), forward = rank_trace(0);
  load.comm = {{"broadcast", "dp", 1, "", "fp32", 12, 48, {}, {}, "param/router/w_ED"}};
  forward.comm = {all_to_all(), {"all_reduce", "ep", 4, "sum", "fp32", 35, 140, {}, {}, "output/y_TD"}};
  load.declared_comm = {{"broadcast", "dp", "param/router/w_ED", 1, 48}};
  forward.declared_comm = {{"all_to_all", "ep", "experts/in_RD", 2, -1}};
  write("load", load);
  write("forward", forward);
  const RankTrace read = read_one({"load", "forward"}, 1).ranks[0];
  EXPECT_EQ(read.comm, (std::vector<Collective>{load.comm[0], forward.comm[0], forward.comm[1]}));
  EXPECT_EQ(read.declared_comm, (std::vector<DeclaredCollective>{load.declared_comm[0], forward.declared_comm[0]}));
}

TEST(CommLog, ReadsBackWhatItWrites) {
  for (const Collective& one : {all_to_all(), Collective{}, Collective{"all_reduce", "ep,tp", 1, "max", "int64", 0, 0, {}, {}, ""}})
    EXPECT_EQ(collective_from_json(to_json(one)), one);
  const DeclaredCollective declared{"reduce_scatter", "fsdp", "grad/x_TD", 3, 96};
  EXPECT_EQ(declared_from_json(to_json(declared)), declared);
}

TEST(PhaseFolder, CountsBatchesFromTheSecondOn) {
  EXPECT_EQ(phase_folder("forward", 0), "forward");
  EXPECT_EQ(phase_folder("backward", 3), "backward.3");
}

constexpr const char* kRouter = "param/router/w_ED";

// Two steps of two microbatches. A value names its batch: 10 loaded, 20 after the first step.
class TrainingTrace : public TraceFolder {
 protected:
  TrainingTrace() {
    RankTrace load = rank_trace(0);
    load.taps[kRouter] = tapped(10);
    load.taps["param/attention/w_DD"] = tapped(5);
    load.plan = {{"router", "replicate", {}, {kRouter}}};
    write("load", load);
    for (model::Dim b = 0; b < 4; ++b) {
      RankTrace forward = rank_trace(0), backward = rank_trace(0);
      forward.taps["input/x_TD"] = tapped(static_cast<double>(b));
      backward.taps["grad/x_TD"] = tapped(static_cast<double>(100 + b));
      write(phase_folder("forward", b), forward);
      write(phase_folder("backward", b), backward);
    }
    RankTrace step = rank_trace(0);
    step.taps["optim/param/router/w_ED"] = tapped(20, {{"fsdp", model::shard(0)}});
    write(phase_folder("step", 1), step);
  }

  std::vector<Trace> batches() const { return read_trace(folder_, {{"load", "forward", "backward", "step"}, 1, 4}).value(); }
};

TEST_F(TrainingTrace, HasATraceForEachBatchWithTheTapsOfThatBatch) {
  const std::vector<Trace> all = batches();
  ASSERT_EQ(all.size(), 4U);
  for (std::size_t b = 0; b < 4; ++b) {
    EXPECT_EQ(all[b].ranks[0].tensor("input/x_TD")->at(1), static_cast<double>(b));
    EXPECT_EQ(all[b].ranks[0].tensor("grad/x_TD")->at(1), static_cast<double>(100 + b));
    EXPECT_EQ(all[b].ranks[0].find("optim/param/router/w_ED") != nullptr, b == 1) << b;
  }
}

TEST_F(TrainingTrace, BeginsABatchWithTheParametersThatTheStepBeforeLeft) {
  const std::vector<Trace> all = batches();
  const auto router = [&](std::size_t b) { return all[b].ranks[0].tensor(kRouter)->at(1); };
  EXPECT_EQ(router(0), 10);
  EXPECT_EQ(router(1), 10) << "the second microbatch of the first step";
  EXPECT_EQ(router(2), 20);
  EXPECT_EQ(router(3), 20);
  EXPECT_EQ(all[3].ranks[0].find(kRouter)->cuts, (std::vector<model::Cut>{{"fsdp", model::shard(0)}}));
  EXPECT_EQ(all[3].ranks[0].plan, all[0].ranks[0].plan);
}

TEST_F(TrainingTrace, LeavesWhatAStepDidNotShowToTheBatchThatFollows) {
  write(phase_folder("step", 1), rank_trace(0));
  EXPECT_EQ(batches()[2].ranks[0].find(kRouter), nullptr) << "no more what was loaded";
  RankTrace forward = rank_trace(0);
  forward.taps[kRouter] = tapped(30);
  write(phase_folder("forward", 2), forward);
  EXPECT_EQ(batches()[2].ranks[0].tensor(kRouter)->at(1), 30);
  EXPECT_EQ(batches()[3].ranks[0].tensor(kRouter)->at(1), 30);
}

TEST_F(TrainingTrace, TakesNoParameterFromAStepThatShowsNone) {
  std::filesystem::remove_all(folder_ / "step.1");
  EXPECT_EQ(batches()[2].ranks[0].tensor(kRouter)->at(1), 10);
  std::filesystem::remove_all(folder_ / "load");
  EXPECT_EQ(batches()[2].ranks[0].find(kRouter), nullptr);
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
                                               "combine/partial_TD",  "output/y_TD",     "grad/y_TD",         "grad/x_TD",
                                               "optim/norm_1",        "optim/param/router/w_ED"};
  for (std::size_t i = 1; i < order.size(); ++i) EXPECT_LT(stage_index(order[i - 1]), stage_index(order[i])) << order[i];
  EXPECT_EQ(stage_index("unknown"), tap_points().size());
  EXPECT_EQ(find_tap("unknown"), nullptr);
  EXPECT_EQ(find_tap("output/y_TD")->name, "output/y_TD");
}

// S, the tokens that a rank dispatches, is T for a subject that gathers none: these taps keep the name.
TEST(TapPoints, EndTheirNamesWithTheirDims) {
  for (const TapPoint& tap : tap_points()) {
    std::string dims(tap.dims);
    std::erase(dims, ' ');
    if (tap.name != "dispatch/tokens_S") std::ranges::replace(dims, 'S', 'T');
    EXPECT_TRUE(tap.name.ends_with("_" + dims)) << tap.name;
  }
}

}  // namespace
}  // namespace moecheck::trace
