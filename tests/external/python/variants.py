"""Copies of examples/naive_ep.py that differ from it in one place, under names of their own, in one program of subjects."""

from __future__ import annotations

from pathlib import Path

import driver_runs

LOAD = 'ctx.parameters(range(self.first, self.first + self.num_local), [("ep", "Shard(0)")])'

BROKEN = {
    "wrong_expert_offset": (LOAD, 'ctx.parameters(range(self.num_local), [("ep", "Shard(0)")])'),
    "missing_all_reduce": ('comm.reduce_from(tap("combine/partial_TD", partial_TD, [("ep", "Partial")]), "ep", "output/y_TD")',
                           'tap("combine/partial_TD", partial_TD, [("ep", "Partial")])'),
    "scores_not_masked": (".masked_fill(is_remote_TK, 0)", ""),
    "router_gradient_not_reduced": ('comm.copy_to(scores_TK, "ep", "grad/scores_TK")', "scores_TK"),
    "renormalisation_forgotten": ("if model.renormalise:", "if False:"),
}

_LOAD_DTENSOR = '''ctx.parameters(())
        del ctx.params[1:]   # all but the attention weight
        from torch.distributed.tensor import DTensor, Replicate, Shard
        mesh = ctx.device_mesh()
        for name, read, place in (("router/w_ED", "router_ED", Replicate()), ("experts/gate_up_EGD", "gate_up_EGD", Shard(0)),
                                  ("experts/down_EDF", "down_EDF", Shard(0))):
            whole = getattr(ctx.weights, read)()
            local = whole if place == Replicate() else whole[self.first : self.first + self.num_local].clone()
            self.w[read] = ctx.parameter(f"param/{name}", torch.nn.Parameter(DTensor.from_local(local, mesh, [place])))'''

_LOAD_PIECES = '''torch.nn.Module()
        mine = range(self.first, self.first + self.num_local)
        self.w.attention_DD = ctx.parameter("param/attention/w_DD", ctx.weights.attention_DD())
        self.w.router_ED = ctx.parameter("param/router/w_ED", ctx.weights.router_ED())
        for name in ("gate_up_EGD", "down_EDF"):
            pieces = torch.nn.ParameterList([torch.nn.Parameter(getattr(ctx.weights, name)([e])[0]) for e in mine])
            setattr(self.w, name, pieces)
            ctx.parameter_of(f"param/experts/{name}", pieces, lambda of, pieces=pieces: torch.stack([of(p) for p in pieces]),
                             [("ep", "Shard(0)")])'''

SOUND = {
    "as_it_is": (LOAD, LOAD),
    "with_dtensors": (LOAD, _LOAD_DTENSOR),
    "with_a_parameter_an_expert": (LOAD, _LOAD_PIECES),
}

MISBEHAVING = {
    "raises": ("logits_TE = tap(", 'if self.ctx.rank == 1:\n            raise IndexError("no such expert")\n        logits_TE = tap('),
    "raises_when_made": ("self.w = " + LOAD, 'raise KeyError("w1.weight")'),
    "other_backend": ("self.w = " + LOAD, f'ctx.experts_backend = "grouped_mm"\n        self.w = {LOAD}'),
    "unwritten": ("torch.zeros_like(x_TD)", "torch.empty_like(x_TD)"),
    "unknown_tap": ('tap("router/logits_TE"', 'tap("router/logits"'),
    "takes_no_part": ('comm.reduce_from(tap("combine/partial_TD", partial_TD, [("ep", "Partial")]), "ep", "output/y_TD")',
                      'comm.reduce_from(partial_TD, "ep", "output/y_TD") if self.ctx.rank == 0 else partial_TD'),
}


def write_program(folder: Path, variants: dict[str, tuple[str, str]]) -> Path:
    source = (driver_runs.EXAMPLES / "naive_ep.py").read_text()
    for name, (old, new) in variants.items():
        if source.count(old) != 1:
            raise AssertionError(f"variant {name}: the example has {source.count(old)} of: {old}")
        text = source.replace(old, new).replace('name="naive_ep"', f'name="{name}"')
        if name == "with_dtensors":
            text = text.replace("self.w.router_ED)", "self.w.router_ED.to_local())")
            for experts in ("gate_up_EGD", "down_EDF"):
                text = text.replace(f"self.w.{experts}[e]", f"self.w.{experts}.to_local()[e]")
        (folder / f"{name}.py").write_text(text)
    program = folder / "program.py"
    program.write_text("".join(f"import {name}\n" for name in variants) + "import moecheck\nmoecheck.main()\n")
    return program
