// The sharded form: what is written is read back, and each kind of damage is refused with its file.
#include <gmock/gmock.h>

#include "harness/checkpoint/checksum.h"
#include "tests/unit/checkpoint/checkpoint_fixture.h"

namespace moecheck::checkpoint {
namespace {

namespace fs = std::filesystem;
using base::DType;
using base::Json;
using testing::HasSubstr;

class Sharded : public CheckpointFolders {
 protected:
  Sharded() { write_sharded("c"); }
};

TEST_F(Sharded, IsReadBackAsItWasWritten) {
  const auto checkpoint = read_checkpoint(path("c"));
  ASSERT_TRUE(checkpoint) << checkpoint.error().text();
  EXPECT_EQ(checkpoint->form, Form::kSharded);
  EXPECT_EQ(checkpoint->world_size, 4);
  EXPECT_EQ(checkpoint->files.size(), 4U);
  EXPECT_TRUE(base::same_bytes(tensor_of(*checkpoint, "experts/w"), ramp(DType::kF32, {4, 3, 5}, 0)));
  EXPECT_TRUE(base::same_bytes(tensor_of(*checkpoint, "router/w"), ramp(DType::kBF16, {4, 5}, 1)));
}

TEST_F(Sharded, StatesRangeAndReplicaOfEveryShard) {
  const auto index = read_index(path("c"));
  ASSERT_TRUE(index);
  const std::vector<Shard> expected = {{"rank0.safetensors", "experts/w", {{0, 0, 0}, {2, 3, 5}}, 0},
                                       {"rank1.safetensors", "experts/w", {{2, 0, 0}, {2, 3, 5}}, 0},
                                       {"rank2.safetensors", "experts/w", {{0, 0, 0}, {2, 3, 5}}, 1},
                                       {"rank3.safetensors", "experts/w", {{2, 0, 0}, {2, 3, 5}}, 1}};
  EXPECT_EQ(index->tensors.at("experts/w").shards, expected);
  EXPECT_EQ(index->tensors.at("router/w").shards.at(3).replica, 3);
  EXPECT_EQ(index->files.at("rank0.safetensors").checksum, checksum_of_file(path("c/rank0.safetensors")).value());
}

TEST_F(Sharded, IndexSurvivesJson) {
  const Index index = read_index(path("c")).value();
  EXPECT_EQ(index_from_json(to_json(index), "x").value(), index);
}

TEST_F(Sharded, RefusesAMissingRankFile) {
  fs::remove(path("c/rank2.safetensors"));
  expect_problem("c", "rank2.safetensors", "is not there");
}

TEST_F(Sharded, RefusesAFileThatTheIndexDoesNotList) {
  write_tensors("c/other.safetensors", {});
  expect_problem("c", "other.safetensors", "does not list it");
}

TEST_F(Sharded, RefusesRankFilesLeftOfALargerWorld) {
  write_tensors("c/rank4.safetensors", {});
  expect_problem("c", "rank4.safetensors", "is left over: index.json has world_size 4");
}

TEST_F(Sharded, RefusesAnUnfinishedWrite) {
  write_text("c/rank1.safetensors.tmp", "half");
  expect_problem("c", "rank1.safetensors.tmp", "did not finish");
}

TEST_F(Sharded, RefusesATruncatedFile) {
  fs::resize_file(path("c/rank3.safetensors"), fs::file_size(path("c/rank3.safetensors")) - 1);
  expect_problem("c", "rank3.safetensors", "truncated");
}

TEST_F(Sharded, RefusesAnotherSizeThanTheIndexSays) {
  change_index("c", [](Json& json) { json["files"]["rank1.safetensors"]["size"] = 7; });
  expect_problem("c", "rank1.safetensors", "index.json says 7");
}

TEST_F(Sharded, RefusesAStaleShardOfTheSameSize) {
  // What the save before this one left: other values under the same names and sizes.
  const auto mesh = model::Mesh::parse("dp=2,ep=2").value();
  const std::vector<LocalTensor> old = {{"experts/w", ramp(DType::kF32, {2, 3, 5}, 500), {{"ep", model::shard(0)}}, {4, 3, 5}},
                                        {"router/w", ramp(DType::kBF16, {4, 5}, 1), {}, {4, 5}}};
  ASSERT_TRUE(write_rank_file(path("c"), mesh, 1, old));
  expect_problem("c", "rank1.safetensors", "has checksum xxh3:");
}

TEST_F(Sharded, RefusesAFlippedBit) {
  std::string bytes = read_text("c/rank0.safetensors");
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  write_text("c/rank0.safetensors", bytes);
  expect_problem("c", "rank0.safetensors", "damaged, or of another save");
}

TEST_F(Sharded, RefusesReplicasThatDifferThoughEveryChecksumFits) {
  const auto mesh = model::Mesh::parse("dp=2,ep=2").value();
  const std::vector<LocalTensor> drifted = {{"experts/w", ramp(DType::kF32, {2, 3, 5}, 0), {{"ep", model::shard(0)}}, {4, 3, 5}},
                                            {"router/w", ramp(DType::kBF16, {4, 5}, 2), {}, {4, 5}}};
  ASSERT_TRUE(write_rank_file(path("c"), mesh, 2, drifted));
  ASSERT_TRUE(write_index(path("c"), read_index(path("c")).value()));
  expect_problem("c", "rank2.safetensors", "replica 2 of [0:4, 0:5] differs from replica 0 in rank0.safetensors", "router/w");
}

TEST_F(Sharded, RefusesAKeyThatIsNotInItsFile) {
  change_index("c", [](Json& json) { json["tensors"]["ghost"] = {{"dtype", "F32"}, {"shape", {2}}, {"shards", {{{"file", "rank0.safetensors"},
      {"key", "ghost"}, {"offset", {0}}, {"shape", {2}}, {"replica", 0}}}}}; });
  expect_problem("c", "rank0.safetensors", "key 'ghost' is not in it", "ghost");
}

TEST_F(Sharded, RefusesATensorThatTheIndexDoesNotHave) {
  const auto checkpoint = [&] {
    change_index("c", [](Json& json) { json["tensors"].erase("router/w"); });
    return survey(path("c")).value();
  }();
  ASSERT_EQ(checkpoint.problems.size(), 4U);
  EXPECT_EQ(checkpoint.problems[0].text(), "rank0.safetensors: tensor 'router/w': is in no entry of index.json");
}

TEST_F(Sharded, RefusesATensorInNoFile) {
  change_index("c", [](Json& json) { json["tensors"]["ghost"] = {{"dtype", "F32"}, {"shape", {2}}, {"shards", Json::array()}}; });
  expect_problem("c", "index.json", "no shard of replica 0 holds [0:2]", "ghost");
}

TEST_F(Sharded, RefusesAnotherShapeOrDtypeThanTheIndexSays) {
  change_index("c", [](Json& json) { json["tensors"]["router/w"]["dtype"] = "F16"; });
  const auto checkpoint = survey(path("c")).value();
  ASSERT_EQ(checkpoint.problems.size(), 4U) << "one a replica";
  EXPECT_THAT(checkpoint.problems[0].text(), HasSubstr("rank0.safetensors: tensor 'router/w': key 'router/w' is BF16 (4, 5), index.json says F16 (4, 5)"));
}

TEST_F(Sharded, RefusesAWorldSizeThatTheMeshDoesNotHave) {
  change_index("c", [](Json& json) { json["mesh"] = "ep=2"; });
  const auto checkpoint = survey(path("c")).value();
  ASSERT_FALSE(checkpoint.problems.empty());
  EXPECT_EQ(checkpoint.problems[0].text(), "index.json: mesh ep=2 has 2 ranks, world_size is 4");
}

TEST_F(Sharded, RefusesAnIndexOfFewerRanksThanItsFiles) {
  change_index("c", [](Json& json) {
    json["mesh"] = "ep=2";
    json["world_size"] = 2;
  });
  const auto checkpoint = survey(path("c")).value();
  ASSERT_EQ(checkpoint.problems.size(), 2U);
  EXPECT_EQ(checkpoint.problems[0].text(), "rank2.safetensors: index.json lists it, and it is of no rank of world_size 2");
}

TEST_F(Sharded, RefusesAHoleInTheRanges) {
  change_index("c", [](Json& json) { json["tensors"]["experts/w"]["shards"].erase(1); });
  const auto checkpoint = survey(path("c")).value();
  std::string all;
  for (const Problem& problem : checkpoint.problems) all += problem.text() + "\n";
  EXPECT_THAT(all, HasSubstr("index.json: tensor 'experts/w': no shard of replica 0 holds [2:4, 0:3, 0:5] of shape (4, 3, 5)\n"));
}

TEST_F(Sharded, NamesTheIndexThatIsTruncatedAndListsItsFiles) {
  const std::string text = read_text("c/index.json");
  write_text("c/index.json", text.substr(0, text.size() / 2));
  expect_problem("c", "index.json", "not valid JSON");
  EXPECT_EQ(survey(path("c"))->files.size(), 4U);
}

TEST_F(Sharded, RefusesIndicesThatAreMalformed) {
  const std::vector<std::pair<std::string, std::string>> malformed = {
      {"[]", "is not a JSON object"},
      {R"({"format": "other"})", "format is not"},
      {R"({"format": "moecheck-sharded", "version": 2})", "version is 2, this moecheck reads 1"},
      {R"({"format": "moecheck-sharded", "version": 1, "world_size": -1, "mesh": "none", "files": {}, "tensors": {}})", "needs world_size"},
      {R"({"format": "moecheck-sharded", "version": 1, "version": 1})", "names 'version' twice"}};
  for (const auto& [text, message] : malformed) {
    write_text("c/index.json", text);
    expect_problem("c", "index.json", message);
  }
}

TEST_F(Sharded, ReadsAnIndexOnlyAsItWasWritten) {
  const std::string good = read_text("c/index.json");
  EXPECT_EQ(good, index_text(read_index(path("c")).value()));
  const Json json = Json::parse(good);
  write_text("c/index.json", json.dump(2));
  expect_problem("c", "index.json", "is not as it was written from byte");
  Json edited = json;
  edited["tensors"]["router/w"]["shards"][1]["replica"] = 2;
  write_text("c/index.json", edited.dump(1) + "\n");
  expect_problem("c", "index.json", "says that its checksum is");
  Json bare = json;
  bare.erase("checksum");
  write_text("c/index.json", bare.dump(1) + "\n");
  expect_problem("c", "index.json", "has no checksum");
}

TEST_F(Sharded, BlamesAnIndexThatFitsNoFile) {
  const std::string old = read_text("c/index.json");
  const auto mesh = model::Mesh::parse("dp=2,ep=2").value();
  for (model::Dim rank = 0; rank < mesh.world_size(); ++rank) {
    const std::vector<LocalTensor> next = {{"experts/w", ramp(DType::kF32, {2, 3, 5}, 700), {{"ep", model::shard(0)}}, {4, 3, 5}},
                                           {"router/w", ramp(DType::kBF16, {4, 5}, 1), {}, {4, 5}}};
    ASSERT_TRUE(write_rank_file(path("c"), mesh, rank, next));
  }
  EXPECT_EQ(survey(path("c"))->problems.at(0).text(), "index.json: fits none of the files that are there: it is of another save, or they are");
}

TEST_F(Sharded, RefusesFilesThatRanksWroteUnderEachOthersNamesOrOnAnotherMesh) {
  fs::copy_file(path("c/rank1.safetensors"), path("c/rank3.safetensors"), fs::copy_options::overwrite_existing);
  ASSERT_TRUE(write_index(path("c"), read_index(path("c")).value()));
  expect_problem("c", "rank3.safetensors", "says that rank 1 wrote it");
  write_sharded("m");
  change_index("m", [](Json& json) { json["mesh"] = "dp=4"; });
  expect_problem("m", "rank0.safetensors", "is of mesh dp=2,ep=2, index.json says dp=4");
}

TEST_F(Sharded, DoesNotTakeTheFileOfOneRankForACheckpointWithoutAnIndex) {
  fs::create_directories(path("one"));
  ASSERT_TRUE(write_rank_file(path("one"), model::Mesh{}, 0, {{"w", ramp(DType::kF32, {3}, 1), {}, {3}}}));
  expect_problem("one", "index.json", "a save that did not finish");
}

TEST_F(Sharded, RefusesAPathOutOfItsFolderAndSizesThatOverflow) {
  const Json good = to_json(read_index(path("c")).value());
  Json outside = good;
  outside["files"]["../c/rank0.safetensors"] = outside["files"]["rank0.safetensors"];
  EXPECT_THAT(index_from_json(outside, "x").error().text(), HasSubstr("x: file '../c/rank0.safetensors' does not name a file of this folder"));
  Json uneven = good;
  uneven["tensors"]["router/w"]["shards"][1]["offset"] = {0};
  EXPECT_THAT(index_from_json(uneven, "x").error().text(), HasSubstr("tensor 'router/w': shard 1 has an offset and a shape of different lengths"));
  Json large = good;
  large["tensors"]["router/w"]["shape"] = {4611686018427387904, 4};
  EXPECT_THAT(index_from_json(large, "x").error().text(), HasSubstr("tensor 'router/w': shape is too large"));
}

TEST_F(Sharded, StoresAStridedShardAsOneBoxABlock) {
  // Gate, then up, each cut over tp: rank 1 of 2 holds rows 2..3 and 6..7.
  const auto mesh = model::Mesh::parse("tp=2").value();
  const base::HostTensor global = ramp(DType::kF32, {8, 3}, 0);
  fs::create_directories(path("s"));
  Index index{2, mesh, {}, {}};
  for (model::Dim rank = 0; rank < 2; ++rank) {
    base::HostTensor local(DType::kF32, {4, 3});
    copy_into(local, {{0, 0}, {2, 3}}, cut_out(global, {{2 * rank, 0}, {2, 3}}));
    copy_into(local, {{2, 0}, {2, 3}}, cut_out(global, {{4 + 2 * rank, 0}, {2, 3}}));
    const std::vector<LocalTensor> tensors = {{"w", local, {{"tp", model::strided_shard(0, 2)}}, {8, 3}}};
    ASSERT_TRUE(write_rank_file(path("s"), mesh, rank, tensors));
    add_shards(index, rank, tensors);
  }
  ASSERT_TRUE(write_index(path("s"), index));
  const Shard last = index.tensors.at("w").shards.back();
  EXPECT_EQ(last, (Shard{"rank1.safetensors", "w#1", {{6, 0}, {2, 3}}, 0}));
  const auto checkpoint = read_checkpoint(path("s"));
  ASSERT_TRUE(checkpoint) << checkpoint.error().text();
  EXPECT_TRUE(base::same_bytes(tensor_of(*checkpoint, "w"), global));
}

}  // namespace
}  // namespace moecheck::checkpoint
