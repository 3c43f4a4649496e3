"""Writes what the ranks hold to a save that is complete or not there, with the points at which a crash may be asked for. Imports torch."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from moecheck.checkpoint_boxes import Box, cut_out, held, held_boxes, keys_of
from moecheck.checkpoint_commit import begin_staging, commit, remove_staging, staging_of, sync
from moecheck.checkpoint_families import Weight, weight_files, write_weight_index
from moecheck.checkpoint_index import INDEX_FILE, SHARDED_FORMAT, Index, add_shards, measured, rank_file
from moecheck.checkpoint_state import StateTensor
from moecheck.comm import Communicator
from moecheck.context import Context
from moecheck.dtypes import HostTensor, of_torch, to_host
from moecheck.mesh import pieces, sharded_dim
from moecheck.safetensors_file import FileFailure, write_file

Reached = Callable[[str], None]
"""Told of staged, torn, files, index, committed; may never return."""


def write_sharded(ctx: Context, folder: Path, state: Sequence[StateTensor], reached: Reached | None) -> None:
    """A training checkpoint: each rank writes its file aside, rank 0 the index, then renames. reached: None where no save is to be broken
    off; else files are written twice, half of them first.
    Ranks: every rank of the mesh. Errors: FileFailure, then nothing is at `folder`; ValueError for tensors that do not lie as they say."""
    _refuse_misplaced(ctx, state)
    staging, is_first = staging_of(folder), ctx.rank == 0
    # Nobody writes before what an earlier save left is gone.
    _agree(ctx, _failure_of(lambda: begin_staging(folder)) if is_first else None, "save/staged")
    try:
        _reach(reached, "staged")
        failure = _failure_of(lambda: _write_whole(staging / rank_file(ctx.rank), lambda path: _write_rank(ctx, path, state), reached))
        if failure is None:
            _reach(reached, "files")
        _agree(ctx, failure, "save/files")
        failure = _failure_of(lambda: _commit_sharded(ctx, folder, state, reached)) if is_first else None
        _agree(ctx, failure, "save/committed")
    except FileFailure:   # all agreed to give up; a rank that died leaves what it wrote
        if is_first:
            remove_staging(folder)
        raise


def write_huggingface(ctx: Context, folder: Path, state: Sequence[StateTensor], reached: Reached | None) -> None:
    """The weights alone, whole on every rank for a moment, written by rank 0 in the family's names and the number of files that the case
    begins with. Ranks and errors: as above."""
    whole = {one.name: gather_whole(one, ctx.comm) for one in state if one.name.startswith("param/")}
    failure = None
    if ctx.rank == 0:
        failure = _failure_of(lambda: _write_weights(ctx, folder, whole, reached))
    if failure is not None:
        remove_staging(folder)
    _agree(ctx, failure, "save/committed")


def gather_whole(one: StateTensor, comm: Communicator) -> torch.Tensor:
    """All-gathers over one cut after the other, the innermost first. Ranks: every rank of the mesh."""
    whole = one.tensor
    for i in reversed(range(len(one.cuts))):
        dims, placement = one.cuts[i]
        sharded = sharded_dim(placement)
        if sharded is None:
            continue
        dim, blocks = sharded
        size = len(held(one.cuts[:i], one.global_shape, comm.mesh, comm.rank)[dim])
        num_ranks = comm.mesh.size(dims)
        places = [pieces(size, blocks, c, num_ranks) for c in range(num_ranks)]
        gathered = comm.all_gather(whole.transpose(0, dim).contiguous(), [len(p) for p in places], dims, one.name)
        in_order = torch.empty_like(gathered)
        in_order[torch.tensor([i for p in places for i in p], dtype=torch.int64)] = gathered
        whole = in_order.transpose(0, dim).contiguous()
    return whole


def _failure_of(work: Callable[[], None]) -> BaseException | None:
    try:
        work()
    except (FileFailure, OSError) as error:
        return error
    return None


def _agree(ctx: Context, failure: BaseException | None, site: str) -> None:
    """All ranks come here; nobody goes on before all are here, or if one failed. Errors: FileFailure on all ranks then."""
    failed_1 = torch.tensor([0 if failure is None else 1])
    ctx.comm.all_reduce(failed_1, ctx.case.mesh.all_dims, site)
    if failure is not None:
        raise failure if isinstance(failure, FileFailure) else FileFailure(f"save: {failure}") from failure
    if int(failed_1) > 0:
        raise FileFailure(f"save: given up, {int(failed_1)} of the other ranks could not do their part")


def _reach(reached: Reached | None, point: str) -> None:
    if reached is not None:
        reached(point)


def _write_whole(path: Path, write: Callable[[Path], None], reached: Reached | None) -> None:
    """Synced when it returns. Where the save may be broken off, half of it lies there first."""
    write(path)
    if reached is not None:
        os.truncate(path, path.stat().st_size // 2)
        reached("torn")
        write(path)
    sync(path)


def _refuse_misplaced(ctx: Context, state: Sequence[StateTensor]) -> None:
    """What a tensor says of itself must be true before it is written down."""
    names = set()
    for one in state:
        if one.name in names:
            raise ValueError(f"save: '{one.name}' is saved twice")
        names.add(one.name)
        for i, (dims, placement) in enumerate(one.cuts):
            if placement == "Partial":
                raise ValueError(f"save: '{one.name}' is a partial sum")
            dim, blocks = sharded_dim(placement) or (0, 1)
            left = [len(held(one.cuts[:i], one.global_shape, ctx.case.mesh, rank)[dim]) for rank in range(ctx.case.mesh.world_size)]
            if blocks > 1 and any(size % (blocks * ctx.case.mesh.size(dims)) for size in left):
                raise ValueError(f"save: '{one.name}' is not divided evenly by {placement} over {dims}")
        promised = [len(indices) for indices in held(one.cuts, one.global_shape, ctx.case.mesh, ctx.rank)]
        if list(one.tensor.shape) != promised:
            raise ValueError(f"save: '{one.name}' has shape {list(one.tensor.shape)}, its cuts {list(one.cuts)} of "
                             f"{list(one.global_shape)} make {promised}")


def _write_rank(ctx: Context, path: Path, state: Sequence[StateTensor]) -> None:
    stored: dict[str, HostTensor] = {}
    for one in state:
        host = to_host(one.tensor)
        boxes = held_boxes(one.cuts, one.global_shape, ctx.case.mesh, ctx.rank)
        for key, (_, local) in zip(keys_of(one.name, len(boxes)), boxes, strict=True):
            stored[key] = HostTensor(host.dtype, cut_out(host.array, local))
    write_file(path, stored, {"format": SHARDED_FORMAT, "mesh": ctx.case.mesh.text, "rank": str(ctx.rank)})


def _commit_sharded(ctx: Context, folder: Path, state: Sequence[StateTensor], reached: Reached | None) -> None:
    mesh, staging = ctx.case.mesh, staging_of(folder)
    index = Index(mesh.world_size, mesh.text)
    for rank in range(mesh.world_size):
        index.files[rank_file(rank)] = measured(staging / rank_file(rank))
        for one in state:
            add_shards(index, mesh, rank, one.name, of_torch(one.tensor.dtype), one.cuts, one.global_shape)
    (staging / INDEX_FILE).write_text(index.text(), encoding="utf-8")
    _reach(reached, "index")
    commit(folder)
    _reach(reached, "committed")


def _write_weights(ctx: Context, folder: Path, whole: dict[str, torch.Tensor], reached: Reached | None) -> None:
    hosts = {name: to_host(tensor) for name, tensor in whole.items()}

    def part(weight: Weight) -> HostTensor:
        host = hosts[weight.tap]
        if weight.expert is None:
            return host
        rows = Box((weight.first_row, 0), weight.shape)
        return HostTensor(host.dtype, cut_out(host.array[weight.expert], rows))

    files, staging = weight_files(ctx.case), staging_of(folder)
    begin_staging(folder)
    _reach(reached, "staged")
    for name, weights in files:
        is_last = name == files[-1][0]   # a save that is torn is so in its last file
        tensors = {weight.name: part(weight) for weight in weights}
        write = functools.partial(write_file, tensors=tensors, metadata={"format": "pt"})
        _write_whole(staging / name, write, reached if is_last else None)
    _reach(reached, "files")
    write_weight_index(staging, ctx.case, files)
    _reach(reached, "index")
    commit(folder)
    _reach(reached, "committed")
