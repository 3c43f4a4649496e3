import unittest

import driver_runs  # noqa: F401

from moecheck.mesh import Mesh, checked_cuts, global_shape_of, held_indices


class Meshes(unittest.TestCase):
    def test_are_row_major_with_the_first_dimension_outermost(self):
        mesh = Mesh.parse("dp=2,ep=3,tp=2")
        self.assertEqual(mesh.world_size, 12)
        self.assertEqual([mesh.coordinate(7, d) for d in ("dp", "ep", "tp", "ep,tp", "tp,ep", "fsdp")], [1, 0, 1, 1, 3, 0])

    def test_group_ranks_that_differ_in_the_named_dimensions_only(self):
        mesh = Mesh.parse("dp=2,ep=3,tp=2")
        self.assertEqual(mesh.group(7, "ep"), [7, 9, 11])
        self.assertEqual(mesh.group(7, "tp,ep"), [6, 8, 10, 7, 9, 11])
        self.assertEqual(mesh.group(7, "fsdp"), [7])

    def test_name_groups_by_the_dimensions_that_count(self):
        self.assertEqual(Mesh.parse("ep=2,tp=1").group_name("ep,tp"), "ep")
        self.assertEqual(Mesh.parse("none").group_name("ep"), "")


class Placements(unittest.TestCase):
    def test_of_packed_blocks_take_a_piece_of_each(self):
        mesh = Mesh.parse("tp=2")
        self.assertEqual(held_indices([("tp", "StridedShard(1,2)")], 8, 1, mesh, 1), [2, 3, 6, 7])

    def test_of_one_dimension_nest_with_the_first_outermost(self):
        mesh = Mesh.parse("ep=2,fsdp=2")
        cuts = [("ep", "Shard(0)"), ("fsdp", "Shard(0)")]
        self.assertEqual([held_indices(cuts, 8, 0, mesh, r) for r in range(4)], [[0, 1], [2, 3], [4, 5], [6, 7]])
        self.assertEqual(held_indices(cuts, 8, 1, mesh, 3), list(range(8)))

    def test_leave_the_last_ranks_less_or_nothing(self):
        mesh = Mesh.parse("ep=4")
        self.assertEqual([held_indices([("ep", "Shard(0)")], 5, 0, mesh, r) for r in range(4)], [[0, 1], [2, 3], [4], []])

    def test_that_are_none_are_refused(self):
        for wrong in ("Shard", "Shard(-1)", "StridedShard(1,0)", "replicate", "Shard(0) "):
            with self.assertRaises(ValueError):
                checked_cuts([("ep", wrong)])

    def test_give_the_global_shape_of_equal_pieces(self):
        mesh = Mesh.parse("ep=3,tp=2")
        self.assertEqual(global_shape_of([("ep", "Shard(0)"), ("tp", "StridedShard(1,2)")], [4, 6, 5], mesh), [12, 12, 5])
        self.assertEqual(global_shape_of([("ep", "Partial")], [4, 6], mesh), [4, 6])


if __name__ == "__main__":
    unittest.main()
