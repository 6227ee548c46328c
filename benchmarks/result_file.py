"""Where a benchmark writes, asked before an hour of computing and not after it."""

from __future__ import annotations

import os
from argparse import ArgumentTypeError
from pathlib import Path


def result_file(given: str) -> Path:
    """Return the path of a file that can be written, as the ``type`` of an option.

    Raises:
        ArgumentTypeError: its folder does not exist or may not be written to, or it is a folder itself.
    """
    path = Path(given)
    if not path.parent.is_dir():
        msg = f"the folder {path.parent} does not exist; make it first"
        raise ArgumentTypeError(msg)
    if path.is_dir():
        msg = f"{path} is a folder; name a file in it, such as {path / 'result.json'}"
        raise ArgumentTypeError(msg)
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        msg = f"{path} may not be written; name a file elsewhere"
        raise ArgumentTypeError(msg)
    return path
