from __future__ import annotations

import json
import platform
import subprocess
from pathlib import Path

import pytest
import torch

from synaptic_intelligence.experiments.environment import describe_environment, git_state


def _git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package in a checkout of its own project, committed."""
    package = tmp_path.resolve() / "checkout" / "src" / "project"
    package.mkdir(parents=True)
    (package / "code.py").write_text("a = 1\n")
    _git(tmp_path, "init", "--quiet", "checkout")
    _git(package, "add", ".")
    _git(package, "commit", "--quiet", "--message", "first")
    return package


def test_the_commit_of_a_clean_checkout(package: Path) -> None:
    assert git_state(package) == {"commit": _git(package, "rev-parse", "HEAD"), "changed": False}


def test_changes_outside_the_package_do_not_count(package: Path) -> None:
    (package.parents[1] / "notes.txt").write_text("mine")
    assert git_state(package) == {"commit": _git(package, "rev-parse", "HEAD"), "changed": False}


@pytest.mark.parametrize("name", ["code.py", "new.py"])
def test_a_changed_or_new_file_of_the_package_counts(package: Path, name: str) -> None:
    (package / name).write_text("a = 2\n")
    assert git_state(package) == {"commit": _git(package, "rev-parse", "HEAD"), "changed": True}


def test_another_projects_checkout_says_nothing(package: Path) -> None:
    installed = package.parents[1] / ".venv" / "site-packages" / "project"
    installed.mkdir(parents=True)
    assert git_state(installed) is None


def test_no_checkout_and_no_commit_say_nothing(tmp_path: Path, package: Path) -> None:
    assert git_state(tmp_path.resolve()) is None
    _git(package, "update-ref", "-d", "HEAD")
    assert git_state(package) is None


def test_without_git_it_says_nothing(package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(package) is None


def test_the_record_has_versions_and_machine_and_no_names() -> None:
    record = describe_environment("cpu", threads=1, workers=2)
    assert record["torch"] == torch.__version__
    assert record["python"] == platform.python_version()
    assert record["device_name"]
    text = json.dumps(record)
    assert str(Path.home()) not in text
    assert str(Path.cwd()) not in text
