"""Importance files: safetensors, so loading one never runs code.

Tensors are named ``omega/NAME``, ``anchor/NAME`` and, in the middle of a task, ``path/NAME``. The metadata holds one
entry, ``synaptic_intelligence``, a JSON object with the schema version and the settings.
"""

from __future__ import annotations

import json
import math
import reprlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from synaptic_intelligence.atomic import replacing
from synaptic_intelligence.errors import printable
from synaptic_intelligence.importance_file import PLAIN_FIELDS, SCHEMA, ImportanceFile, strength_of, unfit_field
from synaptic_intelligence.sharding import processes_of, together, whole
from synaptic_intelligence.version import __version__

_KEY = "synaptic_intelligence"
_READS = 1000
_DTYPES = ("F32", "F64", "BF16")
_MOST_DIMENSIONS = 64  # torch computes with no more
_AT_ONCE = 1 << 22  # numbers that are looked at together, so that a check takes little memory


def write_importance(file: ImportanceFile, path: Path) -> None:
    """Write an importance file in one step; an old one at ``path`` stays whole until the new one is.

    Where tensors are sharded, every process must call this; the first one writes, and all wait for it.

    Raises:
        OSError: the folder does not exist, is read-only or full.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
        >>> omega, anchor = {"w": torch.ones(2)}, {"w": torch.zeros(2)}
        >>> write_importance(ImportanceFile("path_integral", {"xi": 0.1}, 1.0, 1, 0, omega, anchor, {}), path)
        >>> read_importance(path).omega["w"]
        tensor([1., 1.])
    """
    kinds = {"omega": file.omega, "anchor": file.anchor, "path": file.path if file.steps else {}}
    saved = {f"{kind}/{name}": tensor for kind, named in kinds.items() for name, tensor in named.items()}
    group = processes_of(saved.values())
    writes = group is None or dist.get_rank(group) == 0
    gathered = ((key, whole(tensor)) for key, tensor in saved.items())
    tensors = {key: tensor.contiguous().cpu() for key, tensor in gathered if writes}
    together(group, lambda: _write(tensors, file, path) if writes else None)


def _write(tensors: dict[str, Tensor], file: ImportanceFile, path: Path) -> None:
    header = {
        "schema": SCHEMA,
        **{key: getattr(file, key) for key in PLAIN_FIELDS},
        "shapes": {name: list(t.shape) for name, t in file.omega.items()},
        "library": __version__,
        "torch": torch.__version__,
    }
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={_KEY: json.dumps(header)})
        except SafetensorError as error:  # what it raises for a full disk
            raise OSError(f"could not write {path}: {error}") from error


def read_importance(path: Path) -> ImportanceFile:
    """Read an importance file, and check that it is whole.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: damaged, foreign, of another schema, or with values that no importance can have.
        OSError: it may not be read, or is replaced all the time.

    Example: see :func:`write_importance`.
    """
    return read_with_writer(path)[0]


def read_with_writer(path: Path) -> tuple[ImportanceFile, str]:
    """Return what :func:`read_importance` does, and which versions wrote it, as the file says; it may say anything.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
        >>> write_importance(ImportanceFile("path_integral", {"xi": 0.1}, 1.0, 0, 0, {}, {}, {}), path)
        >>> read_with_writer(path)[1] == f"synaptic-intelligence {__version__}, torch {torch.__version__}"
        True
    """
    # safetensors opens a file once for its header and once for its tensors: of one that is replaced in between, it
    # would give parts of both. Another file in its place has another number, or time.
    for _ in range(_READS):
        if not path.is_file():
            raise FileNotFoundError(f"no importance file at {path}")
        before = _identity(path)
        try:
            found = _read(path)
        except (ValueError, RuntimeError) as error:
            if _identity(path) != before:
                continue
            if not isinstance(error, ValueError):
                raise ValueError(f"{path} is damaged: {printable(str(error))}") from None
            raise
        if _identity(path) == before:
            return found
    raise OSError(f"{path} was replaced each time that it was read, {_READS} times: read it when it is left alone")


def _identity(path: Path) -> tuple[int, int, int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _read(path: Path) -> tuple[ImportanceFile, str]:
    with path.open("rb"):
        pass  # safetensors would say of a file that may not be read that there is none
    try:
        with safe_open(path, framework="pt") as reader:
            header = _header(path, reader.metadata() or {})
            tensors = {key: _tensor(path, key, reader) for key in reader.keys()}  # noqa: SIM118
    except SafetensorError as error:
        # The message quotes the file, which may hold what a terminal would obey: not as the cause, where it stands raw.
        raise ValueError(f"{path} is damaged or no safetensors file: {printable(str(error))}") from None
    if (unfit := unfit_field(header)) is not None:
        raise ValueError(f"{path} has in its metadata {unfit}")
    parts: dict[str, dict[str, Tensor]] = {"omega": {}, "anchor": {}, "path": {}}
    for key, tensor in tensors.items():
        kind, _, name = key.partition("/")
        if kind not in parts or not name:
            raise ValueError(f"{path} holds a tensor {printable(repr(key))} that no importance file has")
        parts[kind][name] = tensor
    shapes = header.get("shapes")
    if isinstance(shapes, dict):  # they are in the model's order, and tensors in that of the alphabet
        parts = {kind: {n: named[n] for n in (*shapes, *named) if n in named} for kind, named in parts.items()}
    plain: dict[str, Any] = {key: header.get(key) for key in PLAIN_FIELDS}
    file = ImportanceFile(**{**plain, **parts, "c": strength_of(plain["c"])})
    _check(path, file, shapes)
    return file, f"synaptic-intelligence {header.get('library')}, torch {header.get('torch')}"


def _header(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if _KEY not in metadata:
        raise ValueError(f"{path} is a safetensors file of something else: it has no {_KEY!r} metadata")
    try:
        header = json.loads(metadata[_KEY], object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} has damaged metadata: {error}") from error
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        schema = header.get("schema") if isinstance(header, dict) else None
        raise ValueError(
            f"{path} has schema {reprlib.repr(schema)}; this library ({__version__}) reads schema {SCHEMA}"
        )
    return {"origin": "", "own_c": False, **header}  # there were files without these


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a name stands twice in one object, so that readers might take different ones")
    return found


def _tensor(path: Path, key: str, reader: Any) -> Tensor:
    """Return a tensor, if its dtype and shape are such that torch can do with it what follows, and soon."""
    found = reader.get_slice(key)
    shape = found.get_shape()
    least = math.prod(max(size, 1) for size in shape[:_MOST_DIMENSIONS])
    if found.get_dtype() not in _DTYPES or len(shape) > _MOST_DIMENSIONS or least > sys.maxsize:
        raise ValueError(
            f"{path} holds {printable(repr(key))}, {found.get_dtype()} of shape {reprlib.repr(shape)}, which no "
            "importance file has"
        )
    tensor: Tensor = reader.get_tensor(key)
    return tensor


def _check(path: Path, file: ImportanceFile, shapes: object) -> None:
    if shapes != {name: list(t.shape) for name, t in file.omega.items()}:
        raise ValueError(f"{path} does not hold the importances that its metadata lists")
    for kind, named in (("anchor", file.anchor), ("path", file.path)):
        wanted = {name: t.shape for name, t in file.omega.items()} if kind == "anchor" or file.path else {}
        if {name: t.shape for name, t in named.items()} != wanted:
            raise ValueError(f"{path} has {kind} tensors of other names or shapes than omega")
    for kind, named in (("omega", file.omega), ("anchor", file.anchor), ("path", file.path)):
        for name, tensor in named.items():
            known = (torch.float32, torch.float64, *([torch.bfloat16] if kind == "omega" else []))
            parts = tensor.flatten().split(_AT_ONCE)
            if tensor.dtype not in known or not all(bool(part.isfinite().all()) for part in parts):
                also = ", or bfloat16" if kind == "omega" else ""
                raise ValueError(
                    f"{path} has {kind} of {printable(repr(name))} that is not finite float32 or float64{also} numbers"
                )
            if kind == "omega" and any(bool((part < 0).any()) for part in parts):
                raise ValueError(f"{path} has a negative omega for {printable(repr(name))}")
            if kind == "omega" and not file.tasks and any(bool(part.any()) for part in parts):
                raise ValueError(f"{path} has an omega for {printable(repr(name))}, but no task was consolidated")
