"""For pytest: the fixture `assert_layer` runs cases with the subjects that the test's own file declares.

    def test_layer_is_right_on_two_ranks(assert_layer):
        assert_layer("impl=mine model=qwen3_moe mesh=ep=2 phases=load,forward,backward", observed=["stage_diff", "gradient_parity"])

And files NAME.moecheck.yaml are collected, each case of the scenario an item (moecheck/pytest_scenarios.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moecheck import testing
from moecheck.pytest_scenarios import ENDING, ScenarioFile


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--moecheck-driver", default=None,
                     help=f"the moecheck program; default: {testing.DRIVER_VARIABLE}, or moecheck on PATH")
    parser.addoption("--moecheck-subject", default=None, help="command of the subject for *.moecheck.yaml, run in the file's folder")
    parser.addini("moecheck_subject", "command of the subject for *.moecheck.yaml, run in the file's folder", default="")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> ScenarioFile | None:
    return ScenarioFile.from_parent(parent, path=file_path) if file_path.name.endswith(ENDING) else None


@pytest.fixture
def assert_layer(request: pytest.FixtureRequest) -> Callable[..., list[dict[str, Any]]]:
    try:
        driver = testing.find_driver(request.config.getoption("--moecheck-driver"))
    except FileNotFoundError as error:
        pytest.skip(str(error))
    return functools.partial(testing.assert_layer, subject=request.path, driver=driver)
