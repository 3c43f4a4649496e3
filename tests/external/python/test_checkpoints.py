"""Saves on disk: what the package writes is what the driver reads, in any layout, and damage is refused with its file."""

import dataclasses
import json
import shutil
import tempfile
import threading
import unittest
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import driver_runs
import numpy as np

from moecheck.case import SILU, Case, CheckpointNames, ModelSpec, Training, Unsupported
from moecheck.checkpoint_boxes import held, held_boxes
from moecheck.checkpoint_commit import begin_staging, commit, latest_save, staging_of
from moecheck.checkpoint_read import HuggingFaceSave, ShardedSave, open_save
from moecheck.mesh import Mesh
from moecheck.safetensors_file import FileFailure, write_file


def needs_torch(test):
    return unittest.skipIf(driver_runs.why_no_torch(), driver_runs.why_no_torch())(test)


NAMES = CheckpointNames("mlp.gate.weight", "mlp.experts.{e}.gate_proj.weight", "mlp.experts.{e}.up_proj.weight",
                        "mlp.experts.{e}.down_proj.weight", "attn.weight")


def case_on(mesh, save="sharded", weights="per_expert", weight_files=1):
    model = ModelSpec("test", 3, 2, 4, 6, "before_topk", True, 1.0, SILU, NAMES)
    knobs = {"save": save, "weights": weights, "weight_files": str(weight_files)}
    return Case("mine", "eager", "cpu", model, Mesh.parse(mesh), "fp32", 1, "normal", "natural", (1,), "dp", "tp", "after_experts", False,
                Training(1, 1, "sgd", 0.1, 1.0, 0.0, 0.0, 0.0), ("load",), knobs)


# Of each layout the cuts of gate_up (3, 12, 4): whole, strided, uneven with a rank that holds nothing, nested, and beside replicas.
LAYOUTS = {"none": (), "tp=2": (("tp", "StridedShard(1,2)"),), "ep=4": (("ep", "Shard(0)"),),
           "ep=3,tp=2": (("ep", "Shard(0)"), ("tp", "StridedShard(1,2)")), "dp=2,tp=3": (("tp", "Shard(2)"),),
           "fsdp=2,ep=2": (("ep", "Shard(0)"), ("fsdp", "Shard(1)"))}
GLOBAL = {"param/attention/w_DD": np.arange(16, dtype=np.float32).reshape(4, 4),
          "param/router/w_ED": 100 + np.arange(12, dtype=np.float32).reshape(3, 4),
          "param/experts/gate_up_EGD": 1000 + np.arange(144, dtype=np.float32).reshape(3, 12, 4),
          "param/experts/down_EDF": 2000 + np.arange(72, dtype=np.float32).reshape(3, 4, 6)}


class Ranks:
    """Collectives of ranks that are threads."""

    def __init__(self, mesh):
        self.mesh, self.barrier, self.board = mesh, threading.Barrier(mesh.world_size, timeout=20), {}

    def comm(self, rank):
        def exchange(tensor, dims):
            self.board[rank] = tensor.clone()
            self.barrier.wait()
            found = [self.board[other] for other in self.mesh.group(rank, dims)]
            self.barrier.wait()
            return found

        def all_reduce(tensor, dims, site):
            return tensor.copy_(sum(exchange(tensor, dims)))

        def all_gather(local, rows, dims, site):
            import torch

            return torch.cat(exchange(local, dims))

        return SimpleNamespace(mesh=self.mesh, rank=rank, all_reduce=all_reduce, all_gather=all_gather)


def cuts_of(name, mesh):
    return LAYOUTS[mesh] if name == "param/experts/gate_up_EGD" else ()


def part_of(name, mesh, rank):
    indices = held(cuts_of(name, mesh), GLOBAL[name].shape, Mesh.parse(mesh), rank)
    return GLOBAL[name][np.ix_(*indices)]


def save(case, folder, change=lambda rank, state: state):
    """By all ranks of the case's mesh. Returns what each of them raised."""
    import torch

    from moecheck.checkpoint_state import StateTensor
    from moecheck.checkpoint_write import write_huggingface, write_sharded

    mesh, raised = case.mesh.text, {}
    ranks = Ranks(case.mesh)
    write = write_huggingface if case.knobs["save"] == "huggingface" else write_sharded

    def run(rank):
        state = [StateTensor(name, torch.from_numpy(part_of(name, mesh, rank).copy()), cuts_of(name, mesh), whole.shape)
                 for name, whole in GLOBAL.items()]
        try:
            write(SimpleNamespace(case=case, rank=rank, comm=ranks.comm(rank)), folder, change(rank, state), None)
        except Exception as error:
            raised[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(case.mesh.world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


class Folders(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)


@needs_torch
@driver_runs.needs_xxhash
class ShardedSaves(Folders):
    def test_of_any_layout_are_read_in_any_other(self):
        for mesh in LAYOUTS:
            self.assertEqual(save(case_on(mesh), self.folder / mesh), {})
            for other in LAYOUTS:
                for rank in range(Mesh.parse(other).world_size):
                    found = ShardedSave(case_on(other), rank, self.folder / mesh)
                    self.assertEqual(sorted(found.names), sorted(GLOBAL))
                    for name in GLOBAL:
                        part = found.part(name, cuts_of(name, other))
                        np.testing.assert_array_equal(part.array, part_of(name, other, rank), f"{mesh} -> {other}, rank {rank}, {name}")

    @driver_runs.needs_driver
    def test_are_sound_and_equal_to_the_driver(self):
        save(case_on("none"), self.folder / "none")
        for mesh in LAYOUTS:
            if mesh != "none":
                save(case_on(mesh), self.folder / mesh)
            told = driver_runs.driver("inspect", self.folder / mesh)
            self.assertEqual(told.returncode, 0, told.stdout + told.stderr)
            self.assertIn("sound: 4 tensors, 244 elements", told.stdout)
            self.assertEqual(driver_runs.driver("diff", self.folder / mesh, self.folder / "none").returncode, 0, mesh)

    def test_of_tensors_that_do_not_lie_as_they_say_are_refused_before_anything_is_written(self):
        def wrong(cuts):
            return lambda rank, state: [dataclasses.replace(one, cuts=cuts) if one.name.endswith("down_EDF") else one for one in state]

        for cuts, text in (((("tp", "Shard(1)"),), "has shape"), ((("tp", "Partial"),), "partial sum"),
                           ((("tp", "StridedShard(2,2)"),), "not divided evenly")):
            raised = save(case_on("tp=2"), self.folder / "step-1", wrong(cuts))
            self.assertRegex(str(raised[0]), text)
            self.assertEqual(list(self.folder.iterdir()), [])

    def test_are_given_up_by_all_ranks_if_one_cannot_write_its_part(self):
        def write(path, tensors, metadata):
            if path.name == "rank1.safetensors":
                raise FileFailure(f"{path}: disk full")
            write_file(path, tensors, metadata)

        with mock.patch("moecheck.checkpoint_write.write_file", write):
            raised = save(case_on("ep=4"), self.folder / "step-1")
        self.assertEqual(sorted(raised), [0, 1, 2, 3])
        self.assertIn("disk full", str(raised[1]))
        self.assertIn("1 of the other ranks", str(raised[2]))
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_never_replace_another(self):
        self.assertEqual(save(case_on("none"), self.folder / "step-1"), {})
        self.assertIn("never replaces", str(save(case_on("none"), self.folder / "step-1")[0]))


@needs_torch
@driver_runs.needs_xxhash
class DamagedSaves(Folders):
    def setUp(self):
        super().setUp()
        self.sound = self.folder / "step-1"
        save(case_on("ep=3,tp=2"), self.sound)
        self.damaged = self.folder / "damaged"

    def damage(self, name, change):
        shutil.rmtree(self.damaged, ignore_errors=True)
        shutil.copytree(self.sound, self.damaged)
        (self.damaged / name).write_bytes(change((self.damaged / name).read_bytes()))

    def assert_refused(self, name):
        with self.assertRaisesRegex(FileFailure, name.replace(".", "[.]")):
            open_save(case_on("none"), 0, self.damaged)

    def test_are_refused_wherever_a_byte_is_flipped(self):
        flips = 0
        for name in ("index.json", "rank0.safetensors", "rank5.safetensors"):
            size = (self.sound / name).stat().st_size
            for at in {*range(0, size, max(1, size // 60)), size - 1}:
                self.damage(name, lambda data, at=at: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
                self.assert_refused(name)
                flips += 1
        self.assertGreater(flips, 150)

    def test_are_refused_wherever_they_are_cut_off(self):
        for name in ("index.json", "rank3.safetensors"):
            size = (self.sound / name).stat().st_size
            for keep in (0, 1, 7, 8, size // 3, size // 2, size - 1):
                self.damage(name, lambda data, keep=keep: data[:keep])
                self.assert_refused(name)

    def test_are_refused_with_files_that_are_missing_or_too_many(self):
        for name in ("index.json", "rank0.safetensors", "rank4.safetensors"):
            self.damage(name, lambda data: data)
            (self.damaged / name).unlink()
            self.assert_refused(name)
        for name in ("rank6.safetensors", "rank0.safetensors.tmp"):
            self.damage("index.json", lambda data: data)
            (self.damaged / name).write_bytes((self.sound / "rank0.safetensors").read_bytes())
            self.assert_refused(name)

    def test_are_refused_with_the_index_or_a_file_of_another_save(self):
        other = self.folder / "step-2"
        save(case_on("ep=3,tp=2"), other, lambda rank, state: [one.changed(one.tensor + 1) for one in state])
        for name in ("index.json", "rank2.safetensors"):
            self.damage(name, lambda data, name=name: (other / name).read_bytes())
            self.assert_refused("rank" if name == "index.json" else name)

    def test_are_refused_with_ranges_that_leave_a_hole_or_replicas_that_differ(self):
        from moecheck.checkpoint_index import read_index

        index = read_index(self.sound)
        gate_up = index.tensors["param/experts/gate_up_EGD"]
        gate_up.shards[0], lost = dataclasses.replace(gate_up.shards[1], key=gate_up.shards[0].key), gate_up.shards[0].box
        self.damage("index.json", lambda _: index.text().encode())
        self.assertNotIn(lost, [shard.box for shard in gate_up.shards])
        self.assert_refused("index.json")
        self.damaged = self.folder / "step-3"
        save(case_on("ep=3,tp=2"), self.damaged, lambda rank, state: [one.changed(one.tensor + (rank == 4)) for one in state])
        self.assert_refused("rank4.safetensors")

    def test_are_not_written_or_read_without_the_package_of_their_checksums(self):
        refused = self.assertRaisesRegex(Unsupported, "pip install 'moecheck\\[checkpoints\\]'")
        with mock.patch.dict("sys.modules", {"xxhash": None}), refused:
            open_save(case_on("none"), 0, self.sound)


@needs_torch
class HuggingFaceSaves(Folders):
    FORMS = (("per_expert", 1), ("per_expert", 3), ("packed", 1), ("packed", 2))

    def test_hold_the_weights_by_the_names_of_the_family_in_every_form(self):
        for weights, files in self.FORMS:
            folder = self.folder / f"{weights}-{files}"
            self.assertEqual(save(case_on("ep=3,tp=2", "huggingface", weights, files), folder), {})
            self.assertEqual(len(list(folder.glob("*.safetensors"))), files)
            for mesh in LAYOUTS:
                for rank in range(Mesh.parse(mesh).world_size):
                    found = HuggingFaceSave(case_on(mesh, "huggingface", weights, files), rank, folder)
                    for name in GLOBAL:
                        np.testing.assert_array_equal(found.part(name, cuts_of(name, mesh)).array, part_of(name, mesh, rank))

    @driver_runs.needs_driver
    def test_are_sound_to_the_driver(self):
        for weights, files in self.FORMS:
            folder = self.folder / f"{weights}-{files}"
            save(case_on("tp=2", "huggingface", weights, files), folder)
            told = driver_runs.driver("inspect", folder)
            self.assertEqual(told.returncode, 0, told.stdout + told.stderr)
            self.assertIn(f"sound: {4 if weights == 'packed' else 11} tensors", told.stdout)

    def test_that_are_damaged_are_refused_by_name(self):
        case, sound = case_on("none", "huggingface", "per_expert", 3), self.folder / "step-1"
        save(case, sound)
        second = "model-00002-of-00003.safetensors"

        def lose_a_tensor(folder):
            path = folder / "model.safetensors.index.json"
            index = json.loads(path.read_text())
            index["weight_map"].pop("mlp.experts.2.up_proj.weight")
            path.write_text(json.dumps(index))

        damages = ((second, lambda f: (f / second).unlink()), (second, lambda f: (f / second).write_bytes((f / second).read_bytes()[:-4])),
                   ("index.json", lambda f: (f / "model.safetensors.index.json").write_text("{")),
                   ("experts.2.up_proj", lose_a_tensor), ("stray", lambda f: shutil.copy(f / second, f / "stray.safetensors")))
        for named, damage in damages:
            folder = self.folder / "damaged"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(sound, folder)
            damage(folder)
            with self.assertRaisesRegex(FileFailure, named):
                open_save(case, 0, folder)


class Commits(Folders):
    def test_make_a_save_of_what_was_staged_and_nothing_else(self):
        save_folder = self.folder / "saved" / "step-3"
        begin_staging(save_folder)
        (staging_of(save_folder) / "left").write_text("of a save that broke off")
        begin_staging(save_folder)
        (staging_of(save_folder) / "a").write_text("a")
        commit(save_folder)
        there = [str(path.relative_to(self.folder)) for path in sorted(self.folder.rglob("*"))]
        self.assertEqual(there, ["saved", "saved/step-3", "saved/step-3/a"])
        with self.assertRaisesRegex(FileFailure, "never replaces"):
            begin_staging(save_folder)

    def test_that_meet_a_save_at_their_place_leave_it_alone(self):
        save_folder = self.folder / "step-3"
        begin_staging(save_folder)
        save_folder.mkdir()
        with self.assertRaisesRegex(FileFailure, "is there already"):
            commit(save_folder)
        self.assertTrue(staging_of(save_folder).exists())

    def test_are_found_by_their_steps_and_never_while_they_are_staged(self):
        for name in ("step-2", "step-10", "step-11.tmp", "step-012", "step-x", "step--3"):
            (self.folder / name).mkdir()
        (self.folder / "step-99").write_text("a file")
        found = latest_save(self.folder)
        self.assertEqual((found.folder.name, found.steps), ("step-10", 10))

    def test_that_are_none_are_said_to_be_with_what_broke_off(self):
        with self.assertRaisesRegex(FileFailure, "no save here"):
            latest_save(self.folder)
        (self.folder / "step-1.tmp").mkdir()
        with self.assertRaisesRegex(FileFailure, "step-1.tmp is of a save that broke off"):
            latest_save(self.folder)
        with self.assertRaisesRegex(FileFailure, "nowhere"):
            latest_save(self.folder / "nowhere")


class Boxes(unittest.TestCase):
    def test_are_one_a_run_of_adjacent_indices_with_their_place_in_the_local_tensor(self):
        boxes = held_boxes((("tp", "StridedShard(1,2)"),), (3, 12), Mesh.parse("tp=2"), 1)
        self.assertEqual([(str(g), str(local)) for g, local in boxes], [("[0:3, 3:6]", "[0:3, 0:3]"), ("[0:3, 9:12]", "[0:3, 3:6]")])

    def test_are_none_of_a_rank_that_holds_nothing(self):
        self.assertEqual(held_boxes((("ep", "Shard(0)"),), (3, 2), Mesh.parse("ep=4"), 3), [])


@needs_torch
class WaysBack(unittest.TestCase):
    """Of what was read through parameter_of."""

    def put(self, read, shapes):
        import torch

        from moecheck.checkpoint_state import put_through

        total, pieces = 0, {}
        for name, shape in shapes.items():
            count = int(np.prod(shape))
            pieces[name] = torch.arange(total, total + count, dtype=torch.float32).reshape(shape)
            total += count
        shown = read(pieces.__getitem__)
        blank = {name: torch.full_like(one, torch.nan) for name, one in pieces.items()}
        put_through(read, list(blank.items()), shown)
        return all(torch.equal(blank[name], pieces[name]) for name in pieces)

    def test_lead_to_every_piece(self):
        import torch

        self.assertTrue(self.put(lambda of: of("w"), {"w": (2, 3)}))
        self.assertTrue(self.put(lambda of: torch.cat([of("w1"), of("w3")], 1), {"w1": (2, 3, 4), "w3": (2, 3, 4)}))
        self.assertTrue(self.put(lambda of: of("w").transpose(1, 2), {"w": (2, 3, 4)}))
        self.assertTrue(self.put(lambda of: torch.stack([torch.cat([of(a), of(b)]).T for a, b in ("ab", "cd")]),
                                 dict.fromkeys("abcd", (2, 3))))
        self.assertTrue(self.put(lambda of: of("w").unflatten(0, (3, 2)).transpose(0, 1).flatten(0, 1), {"w": (6, 2)}))

    def test_are_refused_where_elements_are_lost_doubled_or_computed(self):
        import torch

        for read in (lambda of: of("w")[:1], lambda of: torch.cat([of("w"), of("w")]), lambda of: of("w") * 2, lambda of: of("w").float(),
                     lambda of: torch.nn.functional.softmax(of("w"), -1)):
            with self.assertRaisesRegex(Unsupported, "more than to move elements.* give it `write`"):
                self.put(read, {"w": (2, 3)})

    def test_are_the_subjects_own_where_it_gives_one(self):
        import torch

        from moecheck.checkpoint_state import put_into
        from moecheck.context import ParamTap

        parameter = torch.nn.Parameter(torch.ones(2, 3))
        param = ParamTap("router/w_ED", (parameter,), lambda of: 2 * of(parameter), (), (2, 3),
                         lambda of, tensor: of(parameter).copy_(tensor / 2))
        put_into(param, [(parameter, parameter.detach())], torch.full((2, 3), 8.0))
        self.assertTrue(torch.equal(parameter.detach(), torch.full((2, 3), 4.0)))


class Imports(unittest.TestCase):
    def test_of_saves_that_are_read_need_no_torch(self):
        import subprocess
        import sys

        code = "import sys; sys.modules['torch'] = None; from moecheck.checkpoint_read import open_save; print('read')"
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        self.assertEqual((ended.returncode, ended.stdout.strip()), (0, "read"), ended.stderr)


if __name__ == "__main__":
    unittest.main()
