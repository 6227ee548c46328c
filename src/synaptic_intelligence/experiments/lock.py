"""One run at a time in a folder: two would write over each other's checkpoints and result."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from synaptic_intelligence.experiments.folder import RefusedError


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Return a context in which no other run may work in ``folder``, which exists; a killed process gives it free.

    On Windows, which has no such lock, and on file systems that have none, nothing is kept out.

    Raises:
        RefusedError: another run is at work there.
        OSError: the folder cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with alone_in(folder):
        ...     [path.name for path in folder.iterdir()]
        ['.lock']
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    path = folder / ".lock"
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The other run may have ended, and removed its file, since this one opened it.
            alone = os.path.samestat(path.stat(), os.fstat(file.fileno()))
        except (BlockingIOError, FileNotFoundError):
            alone = False
        except OSError:  # a file system without locks
            alone = True
        if not alone:
            raise RefusedError(f"another run is at work in {folder}. Wait for its end, or write elsewhere with --out")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
