"""One run at a time in a folder, until it ends or is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from synaptic_intelligence.experiments.folder import RefusedError
from synaptic_intelligence.experiments.lock import alone_in

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no locks there")

HOLD = """
import sys, time
from pathlib import Path
from synaptic_intelligence.experiments.lock import alone_in
with alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    with alone_in(tmp_path), pytest.raises(RefusedError, match="another run is at work in "), alone_in(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
    with alone_in(tmp_path):
        pass


def test_a_killed_process_gives_the_folder_free(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(RefusedError, match="another run is at work in "), alone_in(tmp_path):
        pass
    process.kill()
    process.communicate(timeout=30)
    with alone_in(tmp_path):
        pass


def test_a_file_that_its_holder_removed_meanwhile_locks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    monkeypatch.setattr(fcntl, "flock", lambda *_: (tmp_path / ".lock").unlink())
    with pytest.raises(RefusedError, match="another run is at work in "), alone_in(tmp_path):
        pass


def test_a_file_system_without_locks_is_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def no_locks(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with alone_in(tmp_path):
        pass
