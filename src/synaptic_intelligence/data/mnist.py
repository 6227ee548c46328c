"""MNIST, from the files that come with the package or from a folder of the user's."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from synaptic_intelligence.data.errors import DataError
from synaptic_intelligence.tasks import Task

_BUNDLED = Path(__file__).parent / "files" / "mnist"
_VARIABLE = "SYNAPTIC_DATA_DIR"
# In the order of a task's fields. Of the unpacked files: the same file compressed by another gzip is as good.
_LARGEST = 16 + 60_000 * 28 * 28  # bytes of an unpacked file
_MD5 = {
    "train-images-idx3-ubyte.gz": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte.gz": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte.gz": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte.gz": "27ae3e4e09519cfbb04c329615203637",
}


def load_mnist(data_dir: Path | str | None = None) -> Task:
    """Return MNIST as one task: 60 000 images to train on, 10 000 to test on, classes 0 to 9.

    The inputs are uint8 of shape ``[N, 784]``: 28 x 28 pixels row by row, 0 (background) to 255 (ink). The
    files are read from ``data_dir``, else from the folder that the environment variable ``SYNAPTIC_DATA_DIR``
    names, else from the package itself. The folder holds the four gzip files, or a folder ``mnist`` that
    does; where it holds CIFAR alone, MNIST comes from the package. Each file's MD5 is checked on every load,
    against damage and mix-ups; the whole takes about half a second.

    Raises:
        DataError: a file is missing, damaged or another file than MNIST's; the message names it.

    Source: LeCun, Bottou, Bengio & Haffner, *Gradient-based learning applied to document recognition*, 1998.
    Data by Yann LeCun, Corinna Cortes and Christopher Burges, CC BY-SA 3.0.

    Example:
        >>> load_mnist()
        Task('MNIST', train=60000, test=10000, inputs=[784] uint8, classes=(0, 1, 2, 3, 4, 5, 6, 7, 8, 9))
    """
    folder = _folder(data_dir)
    train_x, train_y, test_x, test_y = (_read_idx(folder / name) for name in _MD5)
    return Task("MNIST", train_x.flatten(1), train_y.long(), test_x.flatten(1), test_y.long(), tuple(range(10)))


def _folder(data_dir: Path | str | None) -> Path:
    if data_dir is None:
        data_dir = os.environ.get(_VARIABLE) or None
    if data_dir is None:
        return _BUNDLED
    folder = Path(data_dir).expanduser()
    if (folder / "mnist").is_dir():
        return folder / "mnist"
    # A folder of CIFAR alone says nothing of MNIST.
    of_cifar = any((folder / name).is_dir() for name in ("cifar10", "cifar100"))
    return _BUNDLED if of_cifar and not any((folder / name).exists() for name in _MD5) else folder


def _read_idx(path: Path) -> Tensor:
    """Return what a gzipped IDX file holds: bytes 0, 0, 8 (for uint8), dimensions; big-endian sizes; data."""
    try:
        with gzip.open(path) as file:
            raw = file.read(_LARGEST + 1)  # a small file can unpack to more than the memory holds
    except FileNotFoundError:
        raise _error(path, "there is no such file") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _error(path, f"it cannot be read as gzip; it is cut short or damaged ({error})") from error
    except OSError as error:
        raise _error(path, f"it cannot be opened ({error.strerror})") from error
    if len(raw) > _LARGEST:
        raise _error(path, f"it unpacks to more than {_LARGEST} bytes")
    dimensions = 3 if "idx3" in path.name else 1
    start = 4 + 4 * dimensions
    if len(raw) < start or raw[:4] != bytes((0, 0, 8, dimensions)):
        raise _error(path, f"it is not an IDX file of bytes with {dimensions} dimension(s)")
    shape = struct.unpack(f">{dimensions}I", raw[4:start])
    if len(raw) != start + math.prod(shape):
        raise _error(path, f"its header says {shape}, but {len(raw) - start} bytes follow it")
    # Damage is what is guarded against, not malice; for that the sum is the one that is known everywhere.
    md5 = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if md5 != _MD5[path.name]:
        raise _error(path, f"the MD5 of its unpacked bytes is {md5}, MNIST's is {_MD5[path.name]}")
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8, offset=start).view(shape)


def _error(path: Path, problem: str) -> DataError:
    return DataError(
        f"MNIST cannot be loaded from {path}: {problem}. Give data_dir (--data-dir on the command line) or "
        f"set {_VARIABLE} to a folder that holds {', '.join(_MD5)}, itself or in a folder mnist; or neither, for "
        "the copy in the package. If that copy is at fault, install the package again."
    )
