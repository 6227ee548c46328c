"""CIFAR-10, and the half of CIFAR-100 that the paper uses: from the hub, or from parquet files in a folder."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

import torch
from safetensors.torch import load, save
from torch import Tensor

from synaptic_intelligence.atomic import replacing
from synaptic_intelligence.data.errors import DataError
from synaptic_intelligence.tasks import Task

_VARIABLE = "SYNAPTIC_DATA_DIR"
_PARTS = ("train", "test")


@final
@dataclass(frozen=True)
class _Source:
    """Where a data set comes from, and how it is known to be the right one.

    Args:
        name: for people.
        folder: in the user's data folder.
        repository: on the hub.
        label: the column with the label.
        classes: labels 0 to ``classes - 1`` are kept.
        images: how many images each part then has.
        digests: of each part, as ``_digest`` computes it: of pixels and labels, whatever the files' order or format.
    """

    name: str
    folder: str
    repository: str
    label: str
    classes: int
    images: dict[str, int]
    digests: dict[str, str]


_CIFAR10 = _Source(
    name="CIFAR-10",
    folder="cifar10",
    repository="uoft-cs/cifar10",
    label="label",
    classes=10,
    images={"train": 50_000, "test": 10_000},
    digests={
        "train": "f97f0e14deb2ccd53b38097cdb975b3bc79bbd11bd314d98d2b88f0853fe3e35",
        "test": "4f51da4fa903b9b4d9a3380eac78ce13c5ee0191ef8a3da8c45c55e20d9698b0",
    },
)
_CIFAR100 = _Source(
    name="CIFAR-100",
    folder="cifar100",
    repository="uoft-cs/cifar100",
    label="fine_label",
    classes=50,
    images={"train": 25_000, "test": 5_000},
    digests={
        "train": "7d5226dc3d66c7e7803bd2e04f3a52ac3853e006ddf31884e57080927455c40c",
        "test": "9c9cc91e82b541bff7ff6432ffbd97fb8b98b9d611a09eac709e4550526308e6",
    },
)


def load_cifar10(data_dir: Path | str | None = None) -> Task:
    """Return CIFAR-10 as one task: 50 000 images to train on, 10 000 to test on, classes 0 to 9.

    The inputs are uint8 of shape ``[N, 3, 32, 32]``. They are read from the folder ``cifar10`` in ``data_dir``, else
    in the folder that the environment variable ``SYNAPTIC_DATA_DIR`` names: parquet files ``train-*.parquet`` and
    ``test-*.parquet`` with the columns ``img`` and ``label``. Without either they come from the hub, through the
    library ``datasets``. They are decoded once (half a minute) and kept in the user's cache folder. Pixels and labels
    are compared with the known checksum each time; the order of the images is always the same, whatever their source,
    and mixes the classes.

    Raises:
        DataError: files are missing, damaged or of other images, or the libraries that read them are not installed;
            the message names the ways to provide them.

    Source: Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009.

    Example:
        >>> load_cifar10()  # doctest: +SKIP
        Task('CIFAR-10', train=50000, test=10000, inputs=[3, 32, 32] uint8, classes=(0, 1, 2, 3, 4, 5, 6, 7, 8, 9))
    """
    return _load(_CIFAR10, data_dir)


def load_cifar100(data_dir: Path | str | None = None) -> Task:
    """Return the first half of CIFAR-100 as one task: fine classes 0 to 49, 500 images each to train on, 100 to test.

    These are the classes that the paper's benchmark uses. The source is as for :func:`load_cifar10`, with the folder
    ``cifar100`` and the column ``fine_label``; a full CIFAR-100 serves as well as one that has these classes alone.

    Raises:
        DataError: as for :func:`load_cifar10`.

    Source: Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009.

    Example:
        >>> load_cifar100().classes[-1]  # doctest: +SKIP
        49
    """
    return _load(_CIFAR100, data_dir)


def _load(source: _Source, data_dir: Path | str | None) -> Task:
    folder = data_dir if data_dir is not None else os.environ.get(_VARIABLE) or None
    files = None if folder is None else _files(source, Path(folder).expanduser())
    key = "hub" if files is None else _key(files)
    tensors: dict[str, Tensor] = {}
    for part in _PARTS:
        kept = _cache() / f"{source.folder}-{part}-{key}.safetensors"
        images, labels = _from_cache(source, part, kept) or _decode(source, part, files, kept)
        tensors |= {f"{part}_inputs": images, f"{part}_targets": labels.long()}
    return Task(source.name, **tensors, classes=tuple(range(source.classes)))


def _files(source: _Source, folder: Path) -> dict[str, list[Path]]:
    folder = folder / source.folder
    files = {part: sorted(folder.glob(f"{part}-*.parquet")) for part in _PARTS}
    for part, found in files.items():
        if not found:
            raise _error(source, f"there is no {folder / part}-*.parquet")
    return files


def _key(files: dict[str, list[Path]]) -> str:
    """Return a name for the content of the files, so that a changed file is not taken for the one that was cached."""
    total = hashlib.sha256()
    for path in (path for part in _PARTS for path in files[part]):
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "synaptic-intelligence"


def _from_cache(source: _Source, part: str, path: Path) -> tuple[Tensor, Tensor] | None:
    try:
        tensors = load(path.read_bytes())
        images, labels = tensors["images"], tensors["labels"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # safetensors and the system each have their own kinds
        images, labels, problem = torch.empty(0), torch.empty(0), str(error)
    else:
        problem = _wrong(source, part, images, labels)
    if problem:
        warnings.warn(f"{path} is damaged ({problem}); the images are decoded again", stacklevel=4)
        return None
    return images, labels


def _decode(source: _Source, part: str, files: dict[str, list[Path]] | None, kept: Path) -> tuple[Tensor, Tensor]:
    """Return images and labels in their canonical order, and keep them in the file ``kept``."""
    examples = []
    try:
        for number, row in enumerate(_rows(source, part, files)):
            if 0 <= row[source.label] < source.classes:
                examples.append(_example(row[source.label], row["img"], number))
    except DataError:
        raise
    except Exception as error:  # pyarrow, datasets, the hub and the image decoder each have their own kinds
        where = source.repository if files is None else ", ".join(map(str, files[part]))
        raise _error(source, f"{where} cannot be read: {type(error).__name__}: {_first_line(error)}") from error
    # By digest: an order that does not depend on the files, and that has nothing to do with the classes.
    examples.sort()
    pixels = bytearray(b"".join(pixels for _, _, pixels in examples))
    images = torch.frombuffer(pixels, dtype=torch.uint8) if pixels else torch.empty(0, dtype=torch.uint8)
    images = images.view(-1, 32, 32, 3).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor([label for _, label, _ in examples], dtype=torch.uint8)
    problem = _wrong(source, part, images, labels)
    if problem:
        raise _error(source, f"its {part} images are not the right ones: {problem}")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as temporary:
            temporary.write_bytes(save({"images": images, "labels": labels}))
    except OSError as error:
        warnings.warn(f"the decoded images cannot be kept for the next time: {error}", stacklevel=4)
    return images, labels


def _rows(source: _Source, part: str, files: dict[str, list[Path]] | None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a part; an image is ``{"bytes": ..., "path": ...}``, not decoded yet."""
    missing = [package for package in ("datasets", "PIL") if find_spec(package) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise _error(
            source, f"{' and '.join(missing)} {verb} not installed: pip install 'synaptic-intelligence[cifar]'"
        )
    from tqdm import tqdm

    rows = _from_hub(source, part) if files is None else _from_files(source, files[part])
    # disable=None: no bar where stderr is no terminal.
    yield from tqdm(rows, desc=f"decoding {source.name}, {part}", unit=" images", disable=None)


def _from_hub(source: _Source, part: str) -> Iterable[dict[str, Any]]:
    import datasets

    table = datasets.load_dataset(source.repository, split=part)
    rows: Iterable[dict[str, Any]] = table.select_columns(["img", source.label]).cast_column(
        "img", datasets.Image(decode=False)
    )
    return rows


def _from_files(source: _Source, files: list[Path]) -> Iterator[dict[str, Any]]:
    # Not through load_dataset, which needs a folder to write to, even to read.
    from pyarrow.parquet import ParquetFile

    for path in files:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["img", source.label]):
                yield from batch.to_pylist()


def _example(label: int, image: dict[str, Any], number: int) -> tuple[bytes, int, bytes]:
    """Return digest, label and the pixels, row by row, RGB."""
    from PIL import Image

    with Image.open(io.BytesIO(image["bytes"])) as decoded:
        if decoded.size != (32, 32):
            raise ValueError(f"image {number} is {decoded.size[0]} x {decoded.size[1]} pixels, not 32 x 32")
        pixels = decoded.convert("RGB").tobytes()
    return hashlib.blake2b(bytes([label]) + pixels, digest_size=16).digest(), label, pixels


def _wrong(source: _Source, part: str, images: Tensor, labels: Tensor) -> str:
    """Return what is wrong with decoded images, or nothing."""
    count = source.images[part]
    if {images.dtype, labels.dtype} != {torch.uint8} or images.shape[1:] != (3, 32, 32) or labels.ndim != 1:
        return "they are not 3 x 32 x 32 bytes each, with a label"
    if len(images) != count or len(labels) != count:
        return f"{len(labels)} images of classes 0 to {source.classes - 1} instead of {count}"
    found = _digest(images, labels)
    return "" if found == source.digests[part] else f"their checksum is {found}, not {source.digests[part]}"


def _digest(images: Tensor, labels: Tensor) -> str:
    return hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def _error(source: _Source, problem: str) -> DataError:
    return DataError(
        f"{source.name} cannot be loaded: {problem}. Give data_dir (--data-dir on the command line) or set {_VARIABLE} "
        f"to a folder that holds {source.folder}/train-*.parquet and {source.folder}/test-*.parquet, as "
        f"{source.repository} on the Hugging Face hub has them; or neither, to have them downloaded from there"
    )
