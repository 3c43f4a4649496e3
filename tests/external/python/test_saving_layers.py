"""Layers whose saves the package writes and loads, run and judged by the driver: sound ones resume bit for bit, broken ones are named."""

import tempfile
import unittest
from pathlib import Path

import driver_runs
import saving_variants
import variants
from test_layers import failures, run_variants, states

TRAIN = "phases=load,forward,backward,step"
LOOKING = ("checkpoint_census", "checkpoint_round_trip", "resume_determinism", "save_undisturbed", "training_state")


def states_of(record, checks):
    return {name: states(record)[name] for name in checks}


def run_example(cases):
    return driver_runs.run_cases(driver_runs.EXAMPLES / "naive_ep.py", [f"impl=naive_ep {case}" for case in cases])


@driver_runs.needs_subjects
@driver_runs.needs_xxhash
class SoundLayers(unittest.TestCase):
    def assert_sound(self, record, checks=LOOKING):
        self.assertEqual(record["verdict"], "pass", (record["id"], record["reason"], record["findings"][:3]))
        self.assertEqual(states_of(record, checks), dict.fromkeys(checks, "pass"), record["id"])

    def test_resume_as_if_they_had_never_stopped_and_go_on_in_other_layouts(self):
        train = f"{TRAIN} steps=3 lr_decay=0.5 save=sharded save_after=2"
        cases = [f"model=mixtral mesh=ep=2 dtype=fp32 {train} restart=back optimizer=adamw clip_norm=1",
                 f"model=mixtral mesh=ep=2 dtype=bf16 {train} restart=back optimizer=sgd microbatches=2",
                 f"model=mixtral mesh=none dtype=bf16 {train} restart=back optimizer=sgd momentum=0",
                 f"model=qwen3_moe mesh=ep=2 dtype=bf16 {train} restart=none/back optimizer=adamw",
                 f"model=qwen3_moe mesh=none dtype=fp32 {train} restart=ep=2/back optimizer=adamw"]
        for record in run_example(cases):
            self.assert_sound(record)

    def test_consolidate_their_weights_in_every_form(self):
        cases = [f"model=qwen3_moe mesh=ep=2 dtype={form} save=huggingface restart=none/back"
                 for form in ("fp32", "bf16 weight_files=4", "bf16 weights=packed weight_files=2")]
        cases.append(f"model=qwen3_moe mesh=ep=2 dtype=fp32 {TRAIN} steps=2 save=huggingface restart=back")
        for record in run_example(cases):
            self.assert_sound(record, ("checkpoint_census", "checkpoint_round_trip"))

    def test_save_the_weights_that_they_were_trained_to(self):
        cases = [f"model=mixtral mesh={mesh} dtype={dtype} {TRAIN} steps=2 save=huggingface save_after=2" for mesh, dtype in (("ep=2", "bf16"), ("none", "fp32"))]
        for record in run_example(cases):
            self.assert_sound(record, ("checkpoint_census",))
        records = run_variants(saving_variants.SAVES_WHAT_IT_LOADED, cases[:1])["saves_what_it_loaded"]
        census = {f["stage"]: f["message"] for f in failures(records[0]) if f["check"] == "checkpoint_census"}
        self.assertIn("in the save after 2 steps", census["param/router/w_ED"])
        self.assertIn("in the save after 2 steps", census["param/experts/gate_up_EGD"])

    def test_keep_what_is_whole_when_ranks_are_killed_in_a_save(self):
        save = f"{TRAIN} steps=3 optimizer=adamw save=sharded save_after=1 restart=back controls=1"
        crashes = ("crash=staged crash_rank=1", "crash=torn", "crash=committed crash_rank=0")
        cases = [f"model=mixtral mesh=ep=2 dtype=bf16 {save} {crash}" for crash in crashes]
        for record in run_example(cases):
            self.assert_sound(record)

    def test_may_keep_their_parameters_as_they_like_and_save_them_and_their_optimizer_themselves(self):
        case = f"model=qwen3_moe mesh=ep=2 dtype=bf16 {TRAIN} steps=2 momentum=0 save=sharded save_after=1 restart=back"
        which = {**variants.SOUND, **saving_variants.SOUND, **saving_variants.BRINGS_ITS_OPTIMIZER}
        for records in run_variants(which, [case, case.replace("momentum=0", "optimizer=adamw")]).values():
            for record in records if records[0]["config"]["impl"] != "own_optimizer" else records[:1]:
                self.assert_sound(record)

    def test_write_the_bytes_that_in_tree_ranks_write(self):
        rank = driver_runs.BIN / "moecheck-rank"
        if not rank.exists():
            self.skipTest("no moecheck-rank")
        cases = [f"mesh=ep=2 dtype=bf16 experts=8 top_k=2 model=qwen3_moe values=exact {TRAIN} optimizer=adamw save=sharded save_after=1",
                 "mesh=ep=2 dtype=bf16 model=qwen3_moe save=huggingface weight_files=3"]
        with tempfile.TemporaryDirectory() as folder:
            theirs = driver_runs.keep_saves(Path(folder) / "theirs", [f"impl=ep_allreduce {case}" for case in cases])
            subject = driver_runs.command(driver_runs.EXAMPLES / "naive_ep.py")
            ours = driver_runs.keep_saves(Path(folder) / "ours", [f"impl=naive_ep {case}" for case in cases], "--subject", subject)
            self.assertEqual(len(ours), 2)
            for mine, other in zip(ours, theirs, strict=True):
                self.assertEqual(driver_runs.driver("diff", mine, other).returncode, 0)
                names = sorted(path.name for path in other.iterdir())
                self.assertEqual(sorted(path.name for path in mine.iterdir()), names)
                for name in names:
                    self.assertEqual((mine / name).read_bytes(), (other / name).read_bytes(), name)


@driver_runs.needs_subjects
@driver_runs.needs_xxhash
class BrokenLayers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        case = f"model=qwen3_moe mesh=ep=2 dtype=bf16 {TRAIN} steps=2 optimizer=adamw save=sharded save_after=1 restart=back"
        cls.found = run_variants({**saving_variants.BROKEN, **saving_variants.REFUSED}, [case])

    def assert_found(self, name, check, stage, text):
        (record,) = self.found[name]
        self.assertEqual(record["verdict"], "fail", record["reason"])
        at_place = [f["message"] for f in failures(record) if (f["check"], f["stage"]) == (check, stage)]
        self.assertTrue(any(text in message for message in at_place), failures(record))

    def test_that_save_rank_0s_experts_for_all_are_flagged(self):
        self.assert_found("saves_experts_of_rank_0", "checkpoint_census", "param/experts/gate_up_EGD", "experts 6..11 hold experts 0..5")

    def test_that_forget_the_moments_are_flagged(self):
        self.assert_found("forgets_moments", "checkpoint_census", "save", "are not in it: optim/m/router/w_ED")

    def test_whose_save_changes_what_goes_on_are_flagged(self):
        self.assert_found("saves_and_steps_on", "save_undisturbed", "optim/m/experts/down_EDF", "")

    def test_that_load_experts_of_another_rank_are_flagged(self):
        self.assert_found("loads_experts_of_another_rank", "checkpoint_census", "param/experts/gate_up_EGD",
                          "loaded from the save after 1 step: experts 0..5 hold experts 6..11")

    def test_that_go_on_from_rounded_weights_are_flagged(self):
        self.assert_found("loads_no_masters", "checkpoint_census", "optim/master/experts/gate_up_EGD", "loaded from the save after 1 step")

    def test_that_forget_where_the_data_goes_on_are_flagged(self):
        self.assert_found("forgets_where_the_data_goes_on", "checkpoint_census", "state/batches_1", "is 0, should be 1")

    def assert_not_run(self, name, verdict, text):
        (record,) = self.found[name]
        self.assertEqual(record["verdict"], verdict)
        self.assertRegex(record["reason"], text)

    def test_that_keep_their_optimizer_to_themselves_are_refused_with_the_remedy(self):
        self.assert_not_run("secret_optimizer", "unsupported", "save\\(folder, batch\\) and load_saved")

    def test_that_hide_what_a_save_holds_are_refused_with_its_name(self):
        self.assert_not_run("hides_its_attention", "unsupported", "param/attention/w_DD, which .* ctx.parameter")
        self.assert_not_run("hides_its_choices", "unsupported", "state/tokens_E, which is counted from router/ids_TK")

    # The save is the subject's own: that it cannot be read is its failure.
    def test_whose_replicas_differ_are_refused_by_the_restart_with_the_file_named(self):
        self.assert_not_run("saves_router_of_its_own", "fail", "rank1.safetensors: tensor 'param/router/w_ED': replica 1 .* differs")

    def test_whose_saves_are_damaged_are_refused_by_the_restart_with_the_file_named(self):
        self.assert_not_run("damages", "fail", "rank1.safetensors: has checksum .* damaged, or of another save")


if __name__ == "__main__":
    unittest.main()
