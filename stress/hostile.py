"""Files that would run code if anything unpickled them, and files that unpack to far more than they hold."""

from __future__ import annotations

import gzip
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any, final

import torch


@final
class Trap:
    """An object whose unpickling makes the file ``marker``."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def traps(marker: Path, fields: tuple[str, ...]) -> list[bytes]:
    """Return files that make ``marker`` when unpickled: plain, gzip, and as torch.save writes them, old and new.

    Args:
        marker: the file to be made.
        fields: names that a reader looks for; each holds a trap once.

    Example:
        >>> import tempfile
        >>> marker = Path(tempfile.mkdtemp()) / "marker"
        >>> _ = pickle.loads(traps(marker, ())[0])
        >>> marker.exists()
        True
    """
    trap = Trap(marker)
    plain = [pickle.dumps(trap, protocol) for protocol in (2, 4, 5)] + [pickle.dumps(trap, 0)]
    contents: list[Any] = [trap, [trap], {"weights": trap}, *({name: trap} for name in fields)]
    saved = [_saved(content, new) for content in contents for new in (True, False)]
    return [*plain, gzip.compress(plain[0]), *saved]


def _saved(content: Any, new: bool) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=new)
    return file.getvalue()


def gzip_bomb(gigabytes: int) -> bytes:
    """Return a gzip file of about a thousandth of what it unpacks to, all zeros."""
    return gzip.compress(bytes(2**26), mtime=0) * (16 * gigabytes)


def zip_bomb(entries: int, size: int, method: int) -> bytes:
    """Return an archive whose directory names the same ``size`` bytes, all zeros, as so many parts.

    Args:
        method: of :mod:`zipfile`: stored, or deflated to a thousandth.
    """
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method, compresslevel=1) as made:
        made.writestr("archive/data.pkl", bytes(size))
        (info,) = made.infolist()
        for number in range(entries):
            again = zipfile.ZipInfo(f"archive/data/{number}")
            again.header_offset, again.CRC, again.compress_type = info.header_offset, info.CRC, method
            again.file_size, again.compress_size = size, info.compress_size
            made.filelist.append(again)
            made.NameToInfo[again.filename] = again
    return file.getvalue()
