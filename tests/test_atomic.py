from __future__ import annotations

import os
from pathlib import Path

import pytest

from synaptic_intelligence.atomic import replacing


def test_a_new_file_appears_only_when_the_block_has_ended(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    with replacing(target) as temporary:
        temporary.write_text("whole")
        assert not target.exists()
        assert temporary.parent == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert target.read_text() == "whole"


def test_the_old_file_is_read_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    target.write_text("old")
    with replacing(target) as temporary:
        temporary.write_text("ne")
        assert target.read_text() == "old"
        temporary.write_text("new")
    assert target.read_text() == "new"


def _write_half(path: Path, error: type[BaseException]) -> None:
    path.write_text("half")
    raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "result.json"
    target.write_text("old")
    with pytest.raises(error), replacing(target) as temporary:
        _write_half(temporary, error)
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert target.read_text() == "old"


def test_a_failing_rename_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "taken"
    target.mkdir()
    with pytest.raises(IsADirectoryError), replacing(target) as temporary:
        temporary.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_missing_folder_is_an_error_and_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "missing" / "result.json"):
        pytest.fail("the block must not run")
    assert not (tmp_path / "missing").exists()


def test_the_file_is_on_disk_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(descriptor: int) -> None:
        calls.append("fsync")
        fsync(descriptor)

    def spy_replace(source: Path, target: Path) -> None:
        calls.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    with replacing(tmp_path / "result.json") as temporary:
        temporary.write_text("whole")
    assert calls == ["fsync", "replace"]


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_the_file_gets_the_mode_that_open_gives(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with replacing(tmp_path / "result.json") as temporary:
            temporary.write_text("whole")
    finally:
        assert os.umask(old) == 0o027
    assert (tmp_path / "result.json").stat().st_mode & 0o777 == 0o640
