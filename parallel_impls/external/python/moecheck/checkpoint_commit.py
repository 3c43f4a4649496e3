"""Saves that are complete or not there (harness/checkpoint/commit.h): written into step-<n>.tmp, synced, renamed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from moecheck.safetensors_file import FileFailure

_STAGING_ENDING = ".tmp"
# As the name is written: no sign, no leading zeros, nothing behind.
_SAVE = re.compile(r"step-(0|[1-9]\d*)")


def staging_of(folder: Path) -> Path:
    return folder.with_name(folder.name + _STAGING_ENDING)


def begin_staging(folder: Path) -> None:
    """An empty staging folder; what a save that broke off left there is removed. Errors: FileFailure, also if the save is there already,
    since nobody may lose it."""
    if os.path.lexists(folder):
        raise FileFailure(f"save {folder}: is there already, and a save never replaces another; remove it or name another folder")
    staging = staging_of(folder)
    try:
        if staging.exists():
            shutil.rmtree(staging)
        _make_synced(staging)
    except OSError as error:
        raise FileFailure(f"save {staging}: {error.strerror or error}") from error


def remove_staging(folder: Path) -> None:
    shutil.rmtree(staging_of(folder), ignore_errors=True)


def sync(path: Path) -> None:
    """A file's bytes, or the names in a folder, are on disk when it returns. Errors: OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_synced(folder: Path) -> None:
    if folder.exists():
        return
    _make_synced(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


def commit(folder: Path) -> None:
    """Syncs all that is staged, renames it, and syncs the folder above. A crash leaves the staging folder or the save, never a part of the
    save. Errors: FileFailure; the save is not there then."""
    staging = staging_of(folder)
    try:
        # rename() would replace an empty folder.
        if os.path.lexists(folder):
            raise FileExistsError(f"{folder} is there already")
        for below, _, files in os.walk(staging):
            for name in files:
                sync(Path(below) / name)
            sync(Path(below))
        staging.rename(folder)
    except OSError as error:
        raise FileFailure(f"save {folder}: {error.strerror or error}") from error
    try:
        sync(folder.parent)
    except OSError as error:
        # It might be gone after a crash, and so must not be taken for a save.
        with contextlib.suppress(OSError):
            folder.rename(staging)
        raise FileFailure(f"save {folder}: {error.strerror or error}") from error


@dataclass(frozen=True)
class FoundSave:
    folder: Path
    steps: int


def latest_save(root: Path) -> FoundSave:
    """The newest step-<n>; folders of broken saves are none. Whether it is sound is for its reader to say: a damaged one is refused, never
    passed over. Errors: FileFailure if there is none."""
    try:
        names = [entry.name for entry in os.scandir(root) if entry.is_dir()]
    except OSError as error:
        raise FileFailure(f"checkpoint {root}: {error.strerror or error}") from error
    found = [FoundSave(root / name, int(match.group(1))) for name in names if (match := _SAVE.fullmatch(name))]
    if not found:
        broken = sorted(name for name in names if name.endswith(_STAGING_ENDING))
        also = f" ({broken[-1]} is of a save that broke off)" if broken else ""
        raise FileFailure(f"checkpoint {root}: no save here, no folder step-<n>; name the folder that saves were written to{also}")
    return max(found, key=lambda one: one.steps)
