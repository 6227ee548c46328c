"""How alike the path integrals of different tasks are: which synapses did the learning, again or others."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from synaptic_intelligence.atomic import replacing
from synaptic_intelligence.experiments.checkpoint import CheckpointError, checkpoint_path, first_line, load_checked
from synaptic_intelligence.experiments.plan import Job


def compare_paths(
    folder: Path, job: Job, task: int, path: Mapping[str, Tensor], before: Mapping[str, list[list[float]]]
) -> dict[str, list[list[float]]]:
    """Keep the path integral of a task in ``folder``; return the correlations so far, with a row for this task.

    Args:
        folder: of the checkpoints.
        job: whose path it is.
        task: its number, counted from 0.
        path: the path integral of each parameter; only weight matrices are compared.
        before: the correlations of the tasks before this one, by weight matrix.

    Raises:
        CheckpointError: the path integral of an earlier task is damaged or missing.

    Source: Zenke et al. 2017, figure 5.
    """
    weights = {name: values.to("cpu") for name, values in path.items() if values.ndim > 1}
    _keep(weights, _path_file(folder, job, task))
    rows: dict[str, list[float]] = {name: [] for name in weights}
    for other in range(task):
        earlier = _read(folder, job, other)
        for name, values in weights.items():
            rows[name].append(correlation(values, earlier[name]))
    return {name: [*before.get(name, []), [*row, 1.0]] for name, row in rows.items()}


def correlation(a: Tensor, b: Tensor) -> float:
    """Return Pearson's correlation of the numbers in two tensors, computed in float64; 0 where one is constant.

    Example:
        >>> round(correlation(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2.0, 4.0, 8.0])), 12)
        1.0
    """
    a, b = (values.flatten().double() - values.double().mean() for values in (a, b))
    scale = float(a.norm() * b.norm())
    return max(-1.0, min(1.0, float(a @ b) / scale)) if scale > 0 else 0.0


def _trained_by(job: Job, task: int) -> Job:
    return job.needs if task == 0 and job.needs is not None else job


def _path_file(folder: Path, job: Job, task: int) -> Path:
    return checkpoint_path(folder, _trained_by(job, task)).with_suffix(f".path-{task}.pt")


def _read(folder: Path, job: Job, task: int) -> dict[str, Tensor]:
    path, checkpoint = _path_file(folder, job, task), checkpoint_path(folder, _trained_by(job, task))
    try:
        return load_checked(path)
    except Exception as error:  # zipfile, zlib, torch and pickle each have their own kinds for a damaged file
        raise CheckpointError(
            f"the path integral {path} cannot be read: {first_line(error)}. Delete it and {checkpoint.name}, "
            "then resume: what they held is trained again, with the same numbers, and all else is kept"
        ) from error


def _keep(weights: dict[str, Tensor], path: Path) -> None:
    file = io.BytesIO()
    torch.save(weights, file)
    with replacing(path) as temporary:
        temporary.write_bytes(file.getbuffer())
