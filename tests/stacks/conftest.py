"""Two processes for all tests of a module that need them, and the record of what the tests have shown.

`pytest tests/stacks --record-stacks results/stacks.json` writes the record, from which docs/stacks.md is made.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from stacks.ranks import Ranks

_PACKAGES = ("torch", "accelerate", "lightning", "transformers", "peft", "avalanche-lib")
_KEY = "stack"


@pytest.fixture(scope="module")  # so that no other test meets the processes
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    ranks = Ranks(2, tmp_path_factory.mktemp("ranks"))
    yield ranks
    ranks.close()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-stacks", type=Path, default=None, help="write what each test has shown to this file")


def pytest_configure(config: pytest.Config) -> None:
    if (file := config.getoption("--record-stacks", default=None)) is not None:
        config.pluginmanager.register(Recorder(file), "record-stacks")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        marker = item.get_closest_marker(_KEY)
        if marker is not None and isinstance(item, pytest.Function):
            shown = (item.function.__doc__ or "").strip().partition("\n")[0]
            # These travel with the report, also from another process.
            item.user_properties.append((_KEY, json.dumps([marker.args[0], item.originalname, shown])))


class Recorder:
    """Notes the outcome of each test of a stack; those of a parametrized test are one."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.found: dict[str, dict[str, object]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        told = dict(report.user_properties).get(_KEY)
        if told is None or (report.when != "call" and report.passed):
            return
        file = report.nodeid.partition("::")[0]
        stack, name, shown = json.loads(str(told))
        row = self.found.setdefault(
            f"{file}::{name}",
            {"stack": stack, "test": name, "file": file, "shows": shown, "outcome": "passed", "variants": 0},
        )
        row["variants"] = int(str(row["variants"])) + 1
        if report.outcome != "passed":
            row["outcome"] = report.outcome if row["outcome"] != "failed" else "failed"

    def pytest_sessionfinish(self) -> None:
        versions = {}
        for package in _PACKAGES:
            try:
                versions[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                continue
        record = {
            "kind": "stacks",
            "command": f"pytest tests/stacks --record-stacks {self.file}",
            "python": platform.python_version(),
            "packages": versions,
            "tests": [self.found[key] for key in sorted(self.found)],
        }
        self.file.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
