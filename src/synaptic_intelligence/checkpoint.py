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
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, final

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from synaptic_intelligence.atomic import replacing
from synaptic_intelligence.errors import SynapseError
from synaptic_intelligence.sharding import processes_of, together, whole
from synaptic_intelligence.strength import Strength, as_given
from synaptic_intelligence.version import __version__

SCHEMA = 1
_KEY = "synaptic_intelligence"
_READS = 1000
_MOST_REPLICATES = 1_000_000
LARGEST_COUNT = 2**53  # a float64 still counts it exactly, and many such files can be merged
_DTYPES = ("F32", "F64", "BF16")
_MOST_DIMENSIONS = 64  # torch computes with no more
_AT_ONCE = 1 << 22  # numbers that are looked at together, so that a check takes little memory


@final
@dataclass(frozen=True, slots=True)
class ImportanceFile:
    """What an importance file holds.

    Attributes:
        estimator: name of the estimator.
        settings: its settings, such as ``xi``.
        c: strength, or one for each replicate.
        tasks: how many tasks were consolidated.
        steps: optimizer steps since the last consolidation; ``path`` is empty where it is zero.
        omega, anchor, path: tensors by parameter name.
        untouched: whether no step was ever taken, so that the anchor still follows the weights; not saved in files,
            whose anchor is meant as it is.
        way_back: what the surrogate loss of going back over the last task was, at c = 1; None: not known.
        origin: what filled the importance of weights that were trained without synapses, in words; empty: nothing.

    Example:
        >>> ImportanceFile("path_integral", {"xi": 0.1}, 1.0, 0, 0, {}, {}, {}).tasks
        0
    """

    estimator: str
    settings: dict[str, float | str]
    c: Strength
    tasks: int
    steps: int
    omega: Mapping[str, Tensor]
    anchor: Mapping[str, Tensor]
    path: Mapping[str, Tensor]
    untouched: bool = False
    origin: str = ""
    way_back: float | None = None


def to_state_dict(file: ImportanceFile) -> dict[str, Any]:
    """Return the same as a plain dictionary, tensors by reference, that ``torch.save`` and weights-only loading take.

    Example:
        >>> file = ImportanceFile("path_integral", {"xi": 0.1}, 1.0, 0, 0, {}, {}, {})
        >>> from_state_dict(to_state_dict(file)) == file
        True
    """
    state = {field.name: getattr(file, field.name) for field in fields(file)}
    state["c"] = as_given(file.c)
    return {"schema": SCHEMA, **state, **{kind: dict(state[kind]) for kind in ("omega", "anchor", "path")}}


def from_state_dict(state: Mapping[str, Any]) -> ImportanceFile:
    """Return what :func:`to_state_dict` was given.

    Raises:
        SynapseError: other keys, another schema, or values that are no state.

    Example: see :func:`to_state_dict`.
    """
    keys = {"schema", *(field.name for field in fields(ImportanceFile))}
    state = {"origin": "", "way_back": None, **state}
    if set(state) != keys:
        raise SynapseError(f"this is no state of synapses: keys that differ are {sorted(map(str, keys ^ set(state)))}")
    if isinstance(state["schema"], Tensor) or state["schema"] != SCHEMA:  # not every tensor can be compared
        raise SynapseError(f"the state has schema {_told(state['schema'])}; this library reads {SCHEMA}")
    given = state["c"]
    if isinstance(given, Tensor):
        # A view can be vast without taking memory, and its list not.
        small = (
            given.ndim == 1 and len(given) <= _MOST_REPLICATES and given.layout is torch.strided and not given.is_meta
        )
        given = given.tolist() if small else None
    c = _strength(given)
    if c is None:
        raise SynapseError(f"the state has c={_told(state['c'])}, which cannot be")
    for key in ("tasks", "steps"):
        if not _is_number(state[key], whole=True):
            raise SynapseError(f"the state has {key}={_told(state[key])}, which cannot be")
    for key, kind in (("estimator", str), ("settings", dict), ("untouched", bool), ("origin", str)):
        if not isinstance(state[key], kind):
            raise SynapseError(f"the state has {key}={_told(state[key])}, which cannot be")
    if not all(isinstance(value, (float, int, str)) for value in state["settings"].values()):
        raise SynapseError("the state has settings that are neither numbers nor text, which cannot be")
    if not _is_way_back(state["way_back"]):
        raise SynapseError(f"the state has way_back={_told(state['way_back'])}, which cannot be")
    for key in ("omega", "anchor", "path"):
        if not isinstance(state[key], Mapping) or not all(map(_is_plain, state[key].values())):
            raise SynapseError(f"the state has no tensors of real numbers by name for {key!r}")
        if not all(isinstance(name, str) for name in state[key]):
            raise SynapseError(f"the state has names that are no text for {key!r}")
    return ImportanceFile(**{key: value for key, value in {**state, "c": c}.items() if key != "schema"})


def _is_plain(value: object) -> bool:
    """Whether a value is a tensor of real numbers that can be copied from."""
    if not isinstance(value, Tensor) or value.is_meta or value.is_quantized:
        return False
    return value.layout is torch.strided and value.is_floating_point()


def _told(value: object) -> str:
    """Return a value for a message; of a tensor, which may be vast or of a kind that cannot be shown, the shape."""
    return f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else reprlib.repr(value)


def _is_way_back(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isfinite(value))


def _is_number(value: object, *, whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        return False
    return 0 <= value <= (LARGEST_COUNT if whole else sys.float_info.max)


def _strength(value: object) -> Strength | None:
    """Return the strength that was a number, or a list of one for each replicate; None if it was neither."""
    if isinstance(value, list) and value and all(_is_number(each, whole=False) for each in value):
        return tuple(map(float, value))
    return float(value) if isinstance(value, (int, float)) and _is_number(value, whole=False) else None


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
        "estimator": file.estimator,
        "settings": file.settings,
        "c": file.c,
        "tasks": file.tasks,
        "steps": file.steps,
        "origin": file.origin,
        "way_back": file.way_back,
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
    c = _strength(header.get("c"))
    if c is None:
        raise ValueError(f"{path} has c={reprlib.repr(header.get('c'))} in its metadata")
    parts: dict[str, dict[str, Tensor]] = {"omega": {}, "anchor": {}, "path": {}}
    for key, tensor in tensors.items():
        kind, _, name = key.partition("/")
        if kind not in parts or not name:
            raise ValueError(f"{path} holds a tensor {printable(repr(key))} that no importance file has")
        parts[kind][name] = tensor
    shapes = header.get("shapes")
    if isinstance(shapes, dict):  # they are in the model's order, and tensors in that of the alphabet
        parts = {kind: {n: named[n] for n in (*shapes, *named) if n in named} for kind, named in parts.items()}
    file = ImportanceFile(
        estimator=_text(path, header, "estimator"),
        settings=_settings(path, header),
        c=c,
        tasks=_count(path, header, "tasks"),
        steps=_count(path, header, "steps"),
        omega=parts["omega"],
        anchor=parts["anchor"],
        path=parts["path"],
        origin=_text(path, {"origin": "", **header}, "origin"),
        way_back=_way_back(path, header),
    )
    _check(path, file, shapes)
    return file, f"synaptic-intelligence {header.get('library')}, torch {header.get('torch')}"


def printable(text: str, most: int = 200) -> str:
    """Return a text with its control characters escaped, which a terminal would obey, and cut in the middle if long.

    Example:
        >>> printable("a\\n\\x1b[2J")
        'a\\\\n\\\\x1b[2J'
        >>> printable("0123456789", most=4)
        '01...89'
    """
    cut = text if len(text) <= most else f"{text[: most // 2]}...{text[-(most // 2) :]}"
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in cut)


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
    return header


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


def _way_back(path: Path, header: dict[str, Any]) -> float | None:
    value: float | None = header.get("way_back")
    if not _is_way_back(value):
        raise ValueError(f"{path} has way_back={reprlib.repr(value)} in its metadata")
    return value


def _count(path: Path, header: dict[str, Any], key: str) -> int:
    if not _is_number(header.get(key), whole=True):
        raise ValueError(f"{path} has {key}={reprlib.repr(header.get(key))} in its metadata")
    return int(header[key])


def _text(path: Path, header: dict[str, Any], key: str) -> str:
    text = header.get(key)
    if not isinstance(text, str):
        raise ValueError(f"{path} has {key}={reprlib.repr(text)} in its metadata")
    return text


def _settings(path: Path, header: dict[str, Any]) -> dict[str, float | str]:
    settings = header.get("settings")
    if not isinstance(settings, dict) or not all(isinstance(v, (float, int, str)) for v in settings.values()):
        raise ValueError(f"{path} has settings={reprlib.repr(settings)} in its metadata")
    return settings


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
