#include <gtest/gtest.h>

#include "harness/model/model_spec.h"

namespace moecheck::model {
namespace {

TEST(TensorNames, ReplaceTheExpert) {
  EXPECT_EQ(expert_tensor_name("model.layers.0.mlp.experts.{e}.gate_proj.weight", 11), "model.layers.0.mlp.experts.11.gate_proj.weight");
}

TEST(TensorNames, OfPackedExpertsStandBesideThoseOfEach) {
  EXPECT_EQ(packed_tensor_name("model.layers.0.mlp.experts.{e}.gate_proj.weight", "gate_up_proj"), "model.layers.0.mlp.experts.gate_up_proj");
  EXPECT_EQ(packed_tensor_name("model.layers.0.block_sparse_moe.experts.{e}.w2.weight", "down_proj"),
            "model.layers.0.block_sparse_moe.experts.down_proj");
}

}  // namespace
}  // namespace moecheck::model
