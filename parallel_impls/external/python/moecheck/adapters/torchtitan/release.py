"""The release of torchtitan that is installed. Imports torch."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from moecheck.case import Unsupported

_DRIVEN = {"0.2.0": "0.2", "0.2.1": "0.2", "0.2.2": "0.2", "0.3.0": "0.3"}


def installed() -> Any:
    """An object with make_moe(case), parts(moe), parallelized(moe, layout, dtype) and averages_gradients (by FSDP, over the ranks with
    data of their own). Errors: Unsupported where there is no torchtitan, or one that this adapter was not written for."""
    try:
        version = importlib.metadata.version("torchtitan")
    except importlib.metadata.PackageNotFoundError as error:
        raise Unsupported("torchtitan is not installed") from error
    if version not in _DRIVEN:
        raise Unsupported(f"torchtitan {version} is not one of {', '.join(_DRIVEN)}")
    if _DRIVEN[version] == "0.2":
        from moecheck.adapters.torchtitan.release_0_2 import Release
        return Release(version)
    from moecheck.adapters.torchtitan.release_0_3 import Release as ConfiguredRelease
    return ConfiguredRelease(version)
