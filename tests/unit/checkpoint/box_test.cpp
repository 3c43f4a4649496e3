// Boxes of a tensor: what is cut out, put back, and read across the borders of shards.
#include <random>

#include "tests/unit/checkpoint/checkpoint_fixture.h"

namespace moecheck::checkpoint {
namespace {

using base::DType;
using base::HostTensor;
using base::Shape;

// One element after the other: what copying in runs must amount to.
HostTensor cut_by_element(const HostTensor& global, const Box& box) {
  HostTensor part(global.dtype(), box.shape);
  for (std::int64_t i = 0; i < part.numel(); ++i) {
    std::int64_t rest = i;
    std::int64_t flat = 0;
    std::int64_t stride = 1;
    for (std::size_t d = box.shape.size(); d-- > 0;) {
      flat += (box.offset[d] + rest % box.shape[d]) * stride;
      rest /= box.shape[d];
      stride *= global.dim(d);
    }
    part.set(i, global.at(flat));
  }
  return part;
}

Box random_box(const Shape& shape, std::mt19937& random) {
  Box box;
  for (const std::int64_t size : shape) {
    const std::int64_t first = std::uniform_int_distribution<std::int64_t>(0, size)(random);
    box.offset.push_back(first);
    box.shape.push_back(std::uniform_int_distribution<std::int64_t>(0, size - first)(random));
  }
  return box;
}

TEST(Boxes, AreCutAndPutBackAsElementByElement) {
  std::mt19937 random(1);
  for (const Shape& shape : {Shape{}, Shape{7}, Shape{4, 6}, Shape{3, 4, 5}, Shape{2, 1, 3, 4}}) {
    const HostTensor global = ramp(DType::kF32, shape, 1);
    for (int trial = 0; trial < 100; ++trial) {
      const Box box = random_box(shape, random);
      const HostTensor part = cut_out(global, box);
      ASSERT_TRUE(base::same_bytes(part, cut_by_element(global, box))) << box_text(box) << " of " << base::shape_text(shape);
      HostTensor copy = cut_out(global, whole(shape));
      copy_into(copy, box, part);
      ASSERT_TRUE(base::same_bytes(copy, global)) << box_text(box) << " of " << base::shape_text(shape);
    }
  }
}

TEST(Boxes, CopyOnlyWhatTheyShare) {
  std::mt19937 random(2);
  const Shape shape = {4, 5, 6};
  const HostTensor global = ramp(DType::kF32, shape, 1);
  for (int trial = 0; trial < 200; ++trial) {
    const Box from = random_box(shape, random);
    const Box to = random_box(shape, random);
    HostTensor got(DType::kF32, to.shape);
    copy_common(got, to, cut_out(global, from), from);
    // The same by way of a whole tensor that is 0 where `from` is not.
    HostTensor masked(DType::kF32, shape);
    copy_into(masked, from, cut_out(global, from));
    ASSERT_TRUE(base::same_bytes(got, cut_out(masked, to))) << box_text(from) << " to " << box_text(to);
  }
}

class BoxesOfACheckpoint : public CheckpointFolders {};

TEST_F(BoxesOfACheckpoint, AreReadAcrossTheBordersOfShards) {
  write_sharded("c");
  const auto checkpoint = read_checkpoint(path("c"));
  ASSERT_TRUE(checkpoint) << checkpoint.error().text();
  const HostTensor global = ramp(DType::kF32, {4, 3, 5}, 0);
  const Box across{{1, 1, 2}, {2, 2, 3}};
  EXPECT_TRUE(base::same_bytes(box_of(*checkpoint, "experts/w", across), cut_out(global, across)));
  EXPECT_EQ(box_of(*checkpoint, "experts/w", {{4, 0, 0}, {0, 3, 5}}).numel(), 0);
}

TEST_F(BoxesOfACheckpoint, AreViewsWhereAShardIsTheBox) {
  write_sharded("c");
  const auto checkpoint = read_checkpoint(path("c"));
  ASSERT_TRUE(checkpoint) << checkpoint.error().text();
  const HostTensor second = box_of(*checkpoint, "experts/w", {{2, 0, 0}, {2, 3, 5}});
  EXPECT_EQ(second.bytes().data(), checkpoint->opened.at("rank1.safetensors").tensors.at("experts/w").bytes().data());
}

}  // namespace
}  // namespace moecheck::checkpoint
