"""Scenario files beside the tests, NAME.moecheck.yaml: each case is an item, judged by the driver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moecheck import testing
from moecheck.scenario_run import ScenarioRun, list_cases, selection

ENDING = ".moecheck.yaml"
_NO_SUBJECT = ("no subject: say in the ini file moecheck_subject = python mine.py, from the folder of the scenario file, or give "
               "--moecheck-subject")
_SKIPPED = ("unsupported", "skipped")


class CaseFailure(Exception):
    """A case that did not pass; the text is for the report."""


class ScenarioFile(pytest.File):
    _run: ScenarioRun | None = None

    def collect(self) -> Iterator[ScenarioCase]:
        try:
            driver = self._driver()
        except FileNotFoundError as error:
            pytest.skip(str(error), allow_module_level=True)
        try:
            cases = list_cases(driver, self.path)
        except ValueError as error:
            raise self.CollectError(str(error)) from error
        for case in cases:
            yield ScenarioCase.from_parent(self, name=case)

    def setup(self) -> None:
        """One driver for all cases of the file that were selected, at the first of them."""
        subject = self.config.getoption("--moecheck-subject") or self.config.getini("moecheck_subject")
        if not subject:
            pytest.fail(f"{self.path.name}: {_NO_SUBJECT}", pytrace=False)
        mine = {item.name for item in self.session.items if item.parent is self}
        driver = self._driver()
        self._run = ScenarioRun(driver, self.path, subject, selection(mine, list_cases(driver, self.path)))

    def teardown(self) -> None:
        if self._run is not None:
            self._run.close()
        self._run = None

    def record_of(self, case: str) -> dict[str, Any]:
        assert self._run is not None
        return self._run.record_of(case)

    def _driver(self) -> str:
        return testing.find_driver(self.config.getoption("--moecheck-driver"))


class ScenarioCase(pytest.Item):
    parent: ScenarioFile

    def runtest(self) -> None:
        record = self.parent.record_of(self.name)
        verdict, reason = record["verdict"], record.get("reason") or ""
        self.user_properties.append(("moecheck_verdict", verdict))
        if verdict in _SKIPPED:
            pytest.skip(f"{verdict}: {reason}")
        if verdict == "xfail":
            pytest.xfail(reason)
        if verdict != "pass":
            raise CaseFailure(testing.failure_text(record))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any, **named: Any) -> Any:
        # Of a case it is the findings that tell, not where in here they were raised.
        if isinstance(excinfo.value, (CaseFailure, RuntimeError)):
            return str(excinfo.value)
        return super().repr_failure(excinfo, *args, **named)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, f"{self.path.name}: {self.name}"
