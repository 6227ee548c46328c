"""What synapses remember, as one record and as a plain dictionary; checkpoint.py keeps it in files."""

from __future__ import annotations

import math
import reprlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from synaptic_intelligence.errors import SynapseError
from synaptic_intelligence.strength import Strength, as_given

SCHEMA = 1
"""Of state dictionaries and of files: which fields there are, and what they mean."""

LARGEST_COUNT = 2**53
"""Of tasks or steps: a float64 still counts it exactly, and many such files can be merged."""

_MOST_REPLICATES = 1_000_000


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
        own_c: whether parameter groups had strengths of their own, which are known to their optimizer alone.
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
    own_c: bool = False


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
    state = {"origin": "", "way_back": None, "own_c": False, **state}  # there were states without these
    if set(state) != keys:
        raise SynapseError(f"this is no state of synapses: keys that differ are {sorted(map(str, keys ^ set(state)))}")
    if isinstance(state["schema"], Tensor) or state["schema"] != SCHEMA:  # not every tensor can be compared
        raise SynapseError(f"the state has schema {_told(state['schema'])}; this library reads {SCHEMA}")
    given = {**state, "c": _listed(state["c"])}
    if (unfit := unfit_field(given)) is not None:
        raise SynapseError(f"the state has {unfit}")
    if not isinstance(state["untouched"], bool):
        raise SynapseError(f"the state has untouched={_told(state['untouched'])}, which must be true or false")
    for key in ("omega", "anchor", "path"):
        if not isinstance(state[key], Mapping) or not all(map(_is_plain, state[key].values())):
            raise SynapseError(f"the state has no tensors of real numbers by name for {key!r}")
        if not all(isinstance(name, str) for name in state[key]):
            raise SynapseError(f"the state has names that are no text for {key!r}")
    given["c"] = strength_of(given["c"])
    return ImportanceFile(**{key: value for key, value in given.items() if key != "schema"})


def unfit_field(given: Mapping[str, Any]) -> str | None:
    """Return in words the first of the fields without tensors whose value cannot be; None if all can.

    Args:
        given: the fields that hold no tensors, where a strength of each replicate is a list.

    Example:
        >>> unfit_field({"estimator": "mas", "settings": {}, "c": [0.1], "tasks": 1, "steps": -1})
        'steps=-1, which must be a whole number from 0 up'
    """
    for key, (must_be, can_be) in _FIELDS.items():
        if not can_be(given.get(key)):
            return f"{key}={_told(given.get(key))}, which must be {must_be}"
    return None


def strength_of(value: object) -> Strength | None:
    """Return the strength that was a number, or a list of one for each replicate; None if it was neither.

    Example:
        >>> strength_of([0, 0.5]), strength_of(-1.0)
        ((0.0, 0.5), None)
    """
    if isinstance(value, list) and value and all(_is_number(each, whole=False) for each in value):
        return tuple(map(float, value))
    return float(value) if isinstance(value, (int, float)) and _is_number(value, whole=False) else None


def _are_settings(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(setting, (float, int, str)) for setting in value.values())


def _listed(c: object) -> object:
    """Return the list that a tensor of strengths holds, and anything else as it is."""
    if not isinstance(c, Tensor):
        return c
    # A view can be vast without taking memory, and its list not.
    small = c.ndim == 1 and len(c) <= _MOST_REPLICATES and c.layout is torch.strided and not c.is_meta
    return c.tolist() if small else c


def _is_plain(value: object) -> bool:
    """Whether a value is a tensor of real numbers that can be copied from."""
    if not isinstance(value, Tensor) or value.is_meta or value.is_quantized:
        return False
    return value.layout is torch.strided and value.is_floating_point()


@final
class _Short(reprlib.Repr):
    """Shows values in short; of a tensor, which may be vast or of a kind that cannot be shown, the shape."""

    def repr1(self, x: Any, level: int) -> str:
        return f"a tensor {list(x.shape)}" if isinstance(x, Tensor) else super().repr1(x, level)

    def repr_int(self, x: int, level: int) -> str:
        return super().repr_int(x, level) if abs(x) < 10**self.maxlong else "a very long number"


_told = _Short().repr


def _is_finite(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _is_number(value: object, *, whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        return False
    return 0 <= value <= (LARGEST_COUNT if whole else sys.float_info.max)


_COUNT = "a whole number from 0 up", partial(_is_number, whole=True)

_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "estimator": ("text", lambda value: isinstance(value, str)),
    "settings": ("numbers or text by name", _are_settings),
    "c": ("a number from 0 up, or one for each replicate", lambda value: strength_of(value) is not None),
    "tasks": _COUNT,
    "steps": _COUNT,
    "origin": ("text", lambda value: isinstance(value, str)),
    "way_back": ("a finite number, or none", lambda value: value is None or _is_finite(value)),
    "own_c": ("true or false", lambda value: isinstance(value, bool)),
}

PLAIN_FIELDS = tuple(_FIELDS)
"""Those that hold no tensors, as files have them."""
