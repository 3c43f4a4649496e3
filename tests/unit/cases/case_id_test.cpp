#include "harness/cases/case.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "harness/cases/fields.h"
#include "tests/unit/cases/family.h"

namespace moecheck::cases {
namespace {

using testing::HasSubstr;

TEST(CaseId, PrintsImplModelMeshAndDtypeAlways) {
  EXPECT_EQ(case_id(make_case(with({}), small_family()).value(), small_family()), "impl=ep_allreduce model=small mesh=none dtype=fp32");
}

TEST(CaseId, PrintsOnlyKnobsThatDifferFromDefaultAndFamily) {
  const KnobValues knobs = with({{"seed", "7"}, {"experts", "12"}, {"top_k", "2"}, {"experts_backend", "eager"}, {"tokens", "7,5"}});
  EXPECT_EQ(case_id(make_case(knobs, small_family()).value(), small_family()),
            "impl=ep_allreduce model=small mesh=none dtype=fp32 tokens=7,5 top_k=2 seed=7");
}

TEST(CaseId, ReadsBackToTheSameCaseForEveryKnob) {
  const KnobValues others = {{"impl", "tp_sharded"},  {"mesh", "dp=2,tp=2"},       {"dtype", "bf16"},       {"experts_backend", "grouped_mm"},
                             {"tokens", "6,0"},       {"routing", "zipf"},         {"values", "provenance"}, {"experts", "8"},
                             {"top_k", "4"},          {"d_model", "32"},           {"d_ff", "20"},          {"softmax", "after_topk"},
                             {"renormalise", "false"}, {"seed", "9223372036854775807"}, {"phases", "load"},  {"checks", "a,b"},
                             {"fault", "wrong_expert"}, {"device", "cuda"},         {"tokens_over", "dp,fsdp,ep"}, {"expert_tp", "one"},
                             {"apply_scores", "before_experts"}, {"recompute", "true"}, {"steps", "3"},     {"microbatches", "2"},
                             {"optimizer", "adamw"},  {"lr", "0.1"},               {"momentum", "0.9"},    {"weight_decay", "0.0078125"},
                             {"clip_norm", "1.5"},    {"lr_decay", "0.5"},         {"loader", "rank0_broadcast"}, {"weights", "packed"},
                             {"weight_files", "3"},   {"save", "sharded"},          {"save_after", "1"},    {"restart", "ep=4/tp_sharded@tp=2"},
                             {"controls", "3"},       {"crash", "torn"},            {"crash_rank", "1"}};
  const KnobValues saving = {{"mesh", "ep=2"}, {"save", "sharded"}};
  const KnobValues training = {{"mesh", "ep=2"}, {"save", "sharded"}, {"phases", "load,forward,backward,step"}, {"steps", "2"}, {"restart", "ep=2"}};
  KnobValues crashing = training;
  crashing["crash"] = "files";
  // Knobs that make sense beside others only.
  const std::map<std::string_view, KnobValues> beside = {{"expert_tp", {{"mesh", "ep=2,tp=2"}}},
                                                         {"steps", {{"phases", "load,forward,backward,step"}}},
                                                         {"microbatches", {{"phases", "load,forward,backward,step"}}},
                                                         {"save_after", training},
                                                         {"restart", saving},
                                                         {"crash", training},
                                                         {"crash_rank", crashing}};
  for (const Field& field : fields()) {
    if (field.name == "model") continue;  // the tests have one family
    ASSERT_TRUE(others.contains(field.name)) << "a knob without a value here: " << field.name;
    KnobValues knobs = beside.contains(field.name) ? beside.at(field.name) : KnobValues{};
    knobs[std::string(field.name)] = others.find(field.name)->second;
    const Case one = make_case(with(knobs), small_family()).value();
    const std::string id = case_id(one, small_family());
    EXPECT_THAT(id, HasSubstr(std::string(field.name) + "=" + others.find(field.name)->second));
    EXPECT_EQ(config_of(make_case(parse_case_id(id).value(), small_family()).value()), config_of(one));
  }
}

TEST(CaseId, PrintsRealNumbersSoThatTheyReadBackToTheSameBits) {
  for (const double lr : {0.1, 1.0 / 3, 1e-5, 0.015625, 1000.0, 2.5e-300}) {
    Case one = make_case(with({}), small_family()).value();
    one.training.learning_rate = lr;
    const std::string id = case_id(one, small_family());
    EXPECT_EQ(make_case(parse_case_id(id).value(), small_family()).value().training.learning_rate, lr) << id;
  }
}

TEST(CaseId, ParserSkipsBlanksBetweenKnobs) {
  const auto knobs = parse_case_id("  impl=a   mesh=dp=2,ep=2 ").value();
  EXPECT_EQ(knobs, (KnobValues{{"impl", "a"}, {"mesh", "dp=2,ep=2"}}));
}

TEST(CaseId, ParserRefusesWhatIsNoKnob) {
  EXPECT_THAT(parse_case_id("impl").error().message, HasSubstr("'impl' in a case id is not knob=value"));
  EXPECT_THAT(parse_case_id("dtpye=bf16").error().message, HasSubstr("did you mean 'dtype'"));
  EXPECT_THAT(parse_case_id("seed=1 seed=2").error().message, HasSubstr("names 'seed' twice"));
}

TEST(Fields, HaveUniqueNamesAndPlaces) {
  std::set<std::string> names;
  std::set<std::string> places;
  for (const Field& field : fields()) {
    EXPECT_TRUE(names.insert(std::string(field.name)).second) << field.name;
    EXPECT_TRUE(places.insert(std::string(field.yaml_place) + "/" + std::string(field.yaml_key)).second) << field.name;
    EXPECT_FALSE(field.doc.empty()) << field.name;
    EXPECT_EQ(find_field(field.name), &field);
  }
  EXPECT_EQ(find_field("nonsense"), nullptr);
}

TEST(Fields, DefaultsAreCanonical) {
  for (const Field& field : fields()) {
    if (field.default_text.empty()) continue;
    const auto canonical = canonical_text(field, field.default_text);
    ASSERT_TRUE(canonical) << field.name;
    EXPECT_EQ(*canonical, field.default_text);
  }
}

TEST(Fields, SetterAndGetterAgree) {
  for (const Field& field : fields()) {
    if (field.default_text.empty()) continue;
    Case one;
    ASSERT_TRUE(field.set(one, field.default_text)) << field.name;
    EXPECT_EQ(field.get(one), field.default_text) << field.name;
  }
}

}  // namespace
}  // namespace moecheck::cases
