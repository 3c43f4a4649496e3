"""Which rank a process is, as its launcher says in the environment (harness/subject/rank_place.h)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Rank, local rank, world size: the driver and torchrun; Open MPI; MPICH and Intel MPI; srun. mpirun stands before srun, since within an
# allocation the variables of the batch script are there too.
_LAUNCHERS = (("RANK", "LOCAL_RANK", "WORLD_SIZE"),
              ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE"),
              ("PMI_RANK", "MPI_LOCALRANKID", "PMI_SIZE"),
              ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS"))


@dataclass(frozen=True)
class RankPlace:
    rank: int
    local_rank: int
    world_size: int


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name)
    if text is None or not text.isdecimal():
        raise ValueError(f"{name}: is {'not set' if text is None else repr(text)}; expected a number")
    return int(text)


def rank_place(environment: Mapping[str, str] = os.environ) -> RankPlace:
    """Errors: ValueError if no launcher says it, or not in numbers that fit."""
    for rank_name, local_name, size_name in _LAUNCHERS:
        if rank_name not in environment:
            continue
        rank, world_size = _number(environment, rank_name), _number(environment, size_name)
        if rank >= world_size:
            raise ValueError(f"{rank_name}: is {rank}, and {size_name} is {world_size}")
        # srun and MPICH may leave the local one out.
        return RankPlace(rank, _number(environment, local_name) if local_name in environment else rank, world_size)
    raise ValueError("RANK: is not set, nor what mpirun or srun set; this program is started by moecheck, "
                     "or ask it for --moecheck-describe")


def machine_name() -> str:
    """Names this machine and its numbering of processes."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip() + "/" + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
