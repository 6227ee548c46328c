"""Importance of several models in one: the exact sum of their penalties."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from synaptic_intelligence.arguments import checked_number
from synaptic_intelligence.checkpoint import read_importance, write_importance
from synaptic_intelligence.errors import SynapseError, printable, warn
from synaptic_intelligence.importance_file import LARGEST_COUNT, ImportanceFile
from synaptic_intelligence.strength import Strength, checked_strength, folded, pulls

Missing = Literal["refuse", "free"]


def merge_importance(
    files: Iterable[str | Path],
    out: str | Path,
    *,
    c: Sequence[float | Tensor] | None = None,
    missing: Missing = "refuse",
    merged_c: float = 1.0,
) -> None:
    """Write one importance file that pulls as several others do together.

    With weights ``w_i = c_i * omega_i``: omega is ``sum_i w_i``, the anchor ``sum_i w_i anchor_i / sum_i w_i`` (the
    mean of the anchors where that sum is zero), and c is 1. At any parameters, the penalty of the merged file is then
    the sum of the files' penalties, but for a constant. It is computed in float64, and stored in the widest dtype
    among the files, float32 or wider.

    Args:
        files: importance files, two or more, of one estimator and its settings, saved between two tasks.
        out: where the new one goes; it may be one of ``files``, and stays whole until the new one is.
        c: a strength for each file, each as :class:`Consolidator` takes it; None: the one that each file holds.
            Strengths that parameter groups had of their own are in no file, and c=None warns of them.
        missing: ``"refuse"``, or ``"free"`` to let files lack parameters, which then have an omega of zero there.
        merged_c: the strength in the new file; omega is divided by it, so that the pull is the same. Further tasks
            that are consolidated on top count with this strength too.

    Raises:
        TypeError: ``files`` or ``c`` is no sequence of the right things.
        ValueError: fewer than two files, or one twice; strengths that cannot be, or not one for each file; an unknown
            ``missing``; a file that is damaged or foreign.
        FileNotFoundError, OSError: a file is not there, or the new one cannot be written.
        SynapseError: a file is in the middle of a task; the estimators, settings, names or shapes differ; or a sum is
            not finite, or all are zero, once rounded to the dtype that they are stored in.

    Example:
        >>> import tempfile, torch, synaptic_intelligence as si
        >>> folder = tempfile.mkdtemp()
        >>> for name, target in (("a", 1.0), ("b", 3.0)):
        ...     p = torch.nn.Parameter(torch.zeros(1))
        ...     optimizer = torch.optim.SGD([p], lr=0.5)
        ...     synapses = si.SynapticIntelligence([("w", p)], optimizer, c=0.5, xi=1.0)
        ...     (p - target).square().sum().backward()
        ...     optimizer.step()
        ...     path = synapses.consolidate()
        ...     synapses.save(f"{folder}/{name}.safetensors")
        >>> si.merge_importance([f"{folder}/a.safetensors", f"{folder}/b.safetensors"], f"{folder}/both.safetensors")
        >>> si.inspect_importance(f"{folder}/both.safetensors").tasks
        2
    """
    if isinstance(files, (str, Path)):
        raise TypeError(f"files must be a list of paths, not one: {str(files)!r}")
    paths = [Path(file) for file in files]
    for path in paths:
        if sum(path.resolve() == other.resolve() for other in paths) > 1:
            raise ValueError(f"{path} is given twice, and would count twice: give it once, with twice its c if need be")
    read = {str(path): read_importance(path) for path in paths}
    write_importance(merged(read, c=c, missing=missing, merged_c=merged_c), Path(out))


def merged(
    files: Mapping[str, ImportanceFile],
    *,
    c: Sequence[float | Tensor] | None = None,
    missing: Missing = "refuse",
    merged_c: float = 1.0,
) -> ImportanceFile:
    """Return the importance whose penalty is the sum of those of all ``files``, but for a constant.

    Args and Raises as in :func:`merge_importance`; the keys of ``files`` are what errors call them.

    Example:
        >>> one = {"w": torch.tensor([1.0, 0.0])}
        >>> a = ImportanceFile("path_integral", {"xi": 0.1}, 1.0, 1, 0, one, {"w": torch.tensor([0.0, 0.0])}, {})
        >>> b = ImportanceFile("path_integral", {"xi": 0.1}, 3.0, 1, 0, one, {"w": torch.tensor([4.0, 2.0])}, {})
        >>> both = merged({"a": a, "b": b})
        >>> both.omega["w"], both.anchor["w"]
        (tensor([4., 0.]), tensor([3., 1.]))
    """
    if missing not in ("refuse", "free"):
        raise ValueError(f"missing must be 'refuse' or 'free', not {missing!r}")
    if len(files) < 2:
        raise ValueError(f"files must be two or more to be merged, not {len(files)}")
    strength = checked_number(merged_c, "merged_c", zero_is_fine=False)
    strengths = _strengths(files, c)
    names = _common_names(files, missing)
    _refuse_unlike(files, of_any_origin=c is not None)
    _refuse_unfit(files, strengths)
    for what, file in files.items():
        if not file.tasks or (c is None and not pulls(file.c)):
            reason = "its c is zero" if file.tasks else "no task was consolidated in it"
            warn(f"{what} adds nothing to the pull: {reason}")
        if c is None and file.own_c:
            warn(
                f"parameter groups of {what} had strengths of their own, which are not in it: all of it counts with "
                f"c={file.c}; say c=, one for each file, if that is meant"
            )
    omega, anchor, pulled = {}, {}, False
    for name in names:
        having = {what: file for what, file in files.items() if name in file.omega}
        weights = [_weight(file.omega[name], strengths[what]) / strength for what, file in having.items()]
        dtype = _widest(tensor for file in having.values() for tensor in (file.omega[name], file.anchor[name]))
        total, mean = _sum_and_mean(weights, [file.anchor[name].to(torch.float64) for file in having.values()])
        omega[name], anchor[name] = _stored(total, name, "omega", dtype), _stored(mean, name, "anchor", dtype)
        pulled = pulled or any(bool(_weight(f.omega[name] > 0, strengths[what]).any()) for what, f in having.items())
    if pulled and not any(bool(tensor.any()) for tensor in omega.values()):
        raise SynapseError("the merged omega rounds to zero everywhere: choose a smaller merged_c, or larger c")
    if not pulled:
        warn("the merged file pulls nothing: each omega, or its c, is zero")
    first = next(iter(files.values()))
    tasks = sum(file.tasks for file in files.values())
    if tasks > LARGEST_COUNT:
        raise SynapseError(f"the files say that {tasks} tasks were consolidated in them, which cannot be")
    origin = "; ".join(dict.fromkeys(file.origin for file in files.values() if file.origin))
    return ImportanceFile(first.estimator, dict(first.settings), strength, tasks, 0, omega, anchor, {}, origin=origin)


def _strengths(files: Mapping[str, ImportanceFile], c: Sequence[float | Tensor] | None) -> dict[str, Strength]:
    if c is None:
        return {what: file.c for what, file in files.items()}
    if isinstance(c, Tensor) or not isinstance(c, Sequence) or isinstance(c, str):
        raise TypeError(f"c must be a list of one strength for each file, such as [0.1, 1.0], not {type(c).__name__}")
    if len(c) != len(files):
        raise ValueError(f"c must be one strength for each of the {len(files)} files, not {len(c)}")
    return {what: checked_strength(each, f"c of {what}") for what, each in zip(files, c, strict=True)}


def _common_names(files: Mapping[str, ImportanceFile], missing: Missing) -> list[str]:
    """Return the names of all parameters, in the order of the files."""
    names = list(dict.fromkeys(name for file in files.values() for name in file.omega))
    for what, file in files.items():
        lacking = [name for name in names if name not in file.omega]
        if lacking and missing == "refuse":
            raise SynapseError(
                f"{what} has no importance of {lacking}, which others have: missing='free' lets it have none there"
            )
    for name in names:
        shapes = {what: list(file.omega[name].shape) for what, file in files.items() if name in file.omega}
        if len({*map(tuple, shapes.values())}) > 1:
            raise SynapseError(f"{name!r} is of different shapes, so these are of different models: {shapes}")
    return names


def _refuse_unlike(files: Mapping[str, ImportanceFile], *, of_any_origin: bool) -> None:
    begun, first = next(iter(files.items()))
    for what, file in files.items():
        if file.steps:
            raise SynapseError(
                f"{what} was saved in the middle of a task, after {file.steps} steps: consolidate(), and save it again"
            )
        if (file.estimator, file.settings) != (first.estimator, first.settings):
            raise SynapseError(
                f"{what} is of {printable(file.estimator)} with {file.settings}, and {begun} of "
                f"{printable(first.estimator)} with {first.settings}: only importances of one estimator, with the same "
                "settings, can be added"
            )
        if file.origin != first.origin and not of_any_origin:
            origins = [printable(each.origin or "a first task") for each in (file, first)]
            raise SynapseError(
                f"{what} began from {origins[0]}, and {begun} from {origins[1]}, so that their importances are on "
                "different scales: weigh them with c=, one strength for each file"
            )


def _refuse_unfit(files: Mapping[str, ImportanceFile], strengths: Mapping[str, Strength]) -> None:
    for what, file in files.items():
        c = strengths[what]
        if not isinstance(c, tuple):
            continue
        for name, omega in file.omega.items():
            if omega.shape[:1] != (len(c),):
                raise SynapseError(
                    f"c of {what} has {len(c)} strengths, so {name!r} needs a leading axis of {len(c)} replicates; its "
                    f"shape is {list(omega.shape)}"
                )


def _weight(omega: Tensor, c: Strength) -> Tensor:
    product, number = folded(omega.to(torch.float64), c)
    return product * number


def _sum_and_mean(weights: Sequence[Tensor], anchors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the sum of the weights, and the mean of the anchors by weight; their plain mean where the sum is zero."""
    total = reduce(torch.add, weights)
    mean = torch.zeros_like(total)
    for weight, anchor in zip(weights, anchors, strict=True):
        # Shares first: the sum of weight * anchor could overflow where the mean does not.
        mean += torch.where(total > 0, weight / total, 1 / len(weights)) * anchor
    return total, mean


def _widest(tensors: Iterable[Tensor]) -> torch.dtype:
    return reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)


def _stored(tensor: Tensor, name: str, what: str, dtype: torch.dtype) -> Tensor:
    stored = tensor.to(dtype)
    if not bool(stored.isfinite().all()):
        raise SynapseError(
            f"the merged {what} of {name!r} is not finite in {dtype}: choose smaller c, or a larger merged_c"
        )
    return stored
