"""One rank's side of the protocol: opens a case, runs its phases, writes its traces. Imports torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from moecheck.case import Case, Unsupported
from moecheck.comm import Communicator, Groups
from moecheck.context import Context
from moecheck.dtypes import to_torch
from moecheck.inputs import Generator
from moecheck.registry import Subject, find_subject
from moecheck.safetensors_file import write_file
from moecheck.saves import Saves
from moecheck.training import Progress, Training

Reply = dict[str, Any]


class Session:
    def __init__(self, rank: int, local_rank: int, world_size: int, send: Callable[[dict[str, Any]], None]) -> None:
        self._rank, self._local_rank, self._send = rank, local_rank, send
        self._groups = Groups(rank, world_size)
        self._open: _OpenCase | None = None

    def answer(self, request: Mapping[str, Any]) -> Reply:
        """Errors: whatever the subject raises; Unsupported, FileFailure."""
        op = request["op"]
        if op == "open":
            self._close()
            return self._opened(request)
        if op == "close":
            self._close()
            return {"ok": True}
        if self._open is None:
            raise RuntimeError(f"'{op}' before 'open'")
        return self._open.run(op, request)

    def _close(self) -> None:
        if self._open is not None:
            self._open.close()
        self._open = None

    def _opened(self, request: Mapping[str, Any]) -> Reply:
        case = Case.from_open(request["config"], request["model"])
        subject = find_subject(case)
        if case.mesh.world_size > 1:
            self._groups.start(Path(request["rendezvous"]))
        comm = Communicator(case.mesh, self._rank, self._groups, self._send)
        ctx = Context(case, self._rank, self._local_rank, Path(request["checkpoint"]), self._groups, comm)
        self._open = _OpenCase(subject, ctx, Path(request["trace"]), self._send)
        self._open.make()
        return self._open.reply()


class _OpenCase:
    def __init__(self, subject: Subject, ctx: Context, trace: Path, send: Callable[[dict[str, Any]], None]) -> None:
        self._subject, self._ctx, self._trace = subject, ctx, trace
        self._layer: Any = None
        self._generator = Generator(ctx.case)
        self._progress = Progress(ctx)
        self._saves = ctx.saves = Saves(ctx, self._progress, send)
        if reason := self._saves.refusal():
            raise Unsupported(reason)
        self._training: Training | None = None
        self._batch = 0
        self._x_TD: torch.Tensor | None = None
        self._y_TD: torch.Tensor | None = None

    def make(self) -> None:
        try:
            self._layer = self._subject.make(self._ctx.case, self._ctx)
        except Unsupported:
            raise
        except Exception:
            self._write("load", 0, is_aborted=True)
            raise

    def close(self) -> None:
        self._ctx.comm.close()

    def run(self, phase: str, request: Mapping[str, Any]) -> Reply:
        phases: dict[str, Callable[[Mapping[str, Any]], Reply | None]] = {
            "load": self._load, "forward": self._forward, "backward": self._backward, "step": self._step, "save": self._save}
        if phase not in phases:
            raise Unsupported(f"there is no phase '{phase}'")
        batch = request.get("batch", 0)
        try:
            more = phases[phase](request)
        except Exception:
            # What was shown up to there helps to find the cause.
            self._write(phase, batch, is_aborted=True)
            raise
        self._write(phase, batch, is_aborted=False)
        return {**self.reply(), **(more or {})}

    def reply(self) -> Reply:
        return {"ok": True, "implementation": self._subject.name, "experts_backend": self._ctx.experts_backend}

    @property
    def _has_backward(self) -> bool:
        return self._ctx.case.has_phase("backward")

    def _load(self, request: Mapping[str, Any]) -> Reply | None:
        if hasattr(self._layer, "load"):
            self._layer.load()
        if self._ctx.case.has_phase("step") and not hasattr(self._layer, "step"):
            self._training = self._saves.training = Training(self._ctx)
        steps = self._resume(request["resume"]) if request.get("resume") else None
        self._saves.show(with_parameters=steps is not None)
        return None if steps is None else {"steps": steps}

    def _resume(self, root: str) -> int:
        folder, steps = self._saves.newest(root)
        if hasattr(self._layer, "load_saved"):
            self._layer.load_saved(folder)
        else:
            self._saves.read(folder)
        return steps

    def _save(self, request: Mapping[str, Any]) -> None:
        self._saves.hold_at(request.get("hold_at", "none"))
        folder = Path(request["folder"])
        if hasattr(self._layer, "save"):
            self._layer.save(folder, request.get("batch", 0))
        else:
            self._saves.write(folder)

    def _forward(self, _: Mapping[str, Any]) -> None:
        self._ctx.begin_batch()
        self._batch = self._progress.batches
        x_TD = to_torch(self._generator.tokens_TD(self._ctx.rank, self._batch)).requires_grad_(self._has_backward)
        self._ctx.tap("input/x_TD", x_TD)
        with torch.set_grad_enabled(self._has_backward):
            y_TD = self._layer(x_TD)
        self._ctx.join_rows()
        self._ctx.tap("output/y_TD", y_TD)
        self._progress.take_batch()
        self._x_TD, self._y_TD = x_TD, y_TD

    def _backward(self, _: Mapping[str, Any]) -> None:
        if self._y_TD is None:
            raise RuntimeError("a backward without a forward")
        grad_y_TD = to_torch(self._generator.output_grad_TD(self._ctx.rank, self._batch))
        self._ctx.tap("grad/y_TD", grad_y_TD)
        if hasattr(self._layer, "backward"):
            self._layer.backward(grad_y_TD)
        else:
            self._y_TD.backward(grad_y_TD)
        if hasattr(self._layer, "after_backward"):
            self._layer.after_backward()
        self._ctx.show_gradients()
        if self._training is not None:
            self._training.accumulate()

    def _step(self, _: Mapping[str, Any]) -> None:
        if self._training is not None:
            self._training.step(self._progress.learning_rate)
        else:
            self._layer.step(self._progress.learning_rate)
        self._progress.end_step()

    def _write(self, phase: str, batch: int, is_aborted: bool) -> None:
        ctx = self._ctx
        if is_aborted:
            ctx.join_rows()
        shown = ctx.tapper.take()
        about = {"rank": ctx.rank, "coordinate": {name: ctx.coordinate(name) for name, _ in ctx.case.mesh.dims}, "aborted": is_aborted,
                 "implementation": self._subject.name, "experts_backend": ctx.experts_backend,
                 "taps": {name: {"cuts": one.cuts, "global_shape": one.global_shape} for name, one in shown.items()},
                 "comm": ctx.comm.take_log(), "declared_comm": [] if is_aborted else ctx.declared.get(phase, []),
                 "plan": ctx.plan_entries if phase == "load" else []}
        folder = phase if batch == 0 else f"{phase}.{batch}"
        path = self._trace / folder / f"rank{ctx.rank}.safetensors"
        write_file(path, {name: one.host for name, one in shown.items()}, {"moecheck": json.dumps(about)})
