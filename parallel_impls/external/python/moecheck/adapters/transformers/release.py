"""What a release of transformers calls things: generations of its parallel code, told apart by what they offer, not by number."""

from __future__ import annotations

import re
from dataclasses import dataclass

HOOKS = "hooks"
"""Up to 5.15: plain local tensors, hooks on modules, one plan at a time (tp or ep) over one mesh dimension."""
DTENSOR = "dtensor"
"""From 5.16: the package transformers.distributed, DTensor parameters, still one plan at a time."""
DISPATCH = "dispatch"
"""From 5.20: ep_size beside tp_size and fsdp_size, experts on a mesh of their own, tokens exchanged where ranks have their own."""


@dataclass(frozen=True, order=True)
class Version:
    major: int
    minor: int
    patch: int

    @staticmethod
    def parse(text: str) -> Version:
        """Errors: ValueError. What follows the third number ("rc1", ".dev0") is not looked at."""
        found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
        if found is None:
            raise ValueError(f"'{text}' is no version of transformers")
        return Version(int(found[1]), int(found[2]), int(found[3] or 0))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


OLDEST = Version(5, 1, 0)


@dataclass(frozen=True)
class Release:
    version: Version
    generation: str
    loads_fsdp: bool
    """from_pretrained applies fsdp_size of the DistributedConfig."""
    takes_tp_plan: bool
    """from_pretrained is told of parallelism by tp_plan="auto", not by sizes in the DistributedConfig."""


def generation_of(config_fields: set[str], has_dtensor_styles: bool) -> str:
    """config_fields: of DistributedConfig. has_dtensor_styles: transformers.distributed.tensor_parallel exists."""
    if "ep_size" in config_fields:
        return DISPATCH
    return DTENSOR if has_dtensor_styles else HOOKS


def installed_release() -> Release:
    """Errors: ImportError; ValueError for a release before 5.1."""
    import importlib.util

    import transformers
    from transformers.distributed import DistributedConfig

    version = Version.parse(transformers.__version__)
    if version < OLDEST:
        raise ValueError(f"transformers {version} is older than {OLDEST}, the first release that the adapter knows")
    fields = set(getattr(DistributedConfig, "__dataclass_fields__", {}))

    def has(module: str) -> bool:
        return importlib.util.find_spec(f"transformers.distributed.{module}") is not None

    has_mixin = has("mixin")
    return Release(version, generation_of(fields, has("tensor_parallel")), loads_fsdp=has_mixin, takes_tp_plan=not has_mixin)
