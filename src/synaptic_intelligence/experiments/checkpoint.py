"""A job's checkpoint: everything that it needs to go on as if it had never been stopped."""

from __future__ import annotations

import io
import zipfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, final

import torch

from synaptic_intelligence.atomic import replacing
from synaptic_intelligence.document import Value
from synaptic_intelligence.experiments.plan import Job, Record


@final
class CheckpointError(RuntimeError):
    """A checkpoint cannot be read; the message names the file and says what to do."""


@final
@dataclass(frozen=True)
class Checkpoint:
    """The state of a job between two epochs.

    Args:
        task, epoch: the epoch to train next, both counted from 0; epoch 0 starts with a fresh optimizer.
        seconds: training time of this task so far.
        weights, optimizer, synapses: the state dicts; that of the optimizer is empty before a fresh one is made, that
            of the synapses where there are none.
        order: state of the generator that shuffles the training images.
        noise: states of the generators that dropout draws from: the CPU's, and the device's if it is another.
        record: what was measured so far.
    """

    task: int
    epoch: int
    seconds: float
    weights: dict[str, Any]
    optimizer: dict[str, Any]
    synapses: dict[str, Any]
    order: torch.Tensor
    noise: list[torch.Tensor]
    record: Record


def checkpoint_path(folder: Path, job: Job) -> Path:
    """Return where the checkpoint of ``job`` lies.

    Example:
        >>> from synaptic_intelligence.experiments.method import Method
        >>> checkpoint_path(Path("checkpoints"), Job(seed=3, method=Method("si", 0.5))).name
        'seed-3-c-0.5.pt'
    """
    return folder / f"seed-{job.seed}-{job.method.file_name if job.method else 'first-task'}.pt"


def write_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint in one step; the old one stays whole until the new one is.

    Raises:
        OSError: the folder cannot be written, or the disk is full; the message names the file.
    """
    # Field by field, as asdict would copy every tensor.
    content = {name: getattr(checkpoint, name) for name in Checkpoint.__dataclass_fields__}
    # By way of memory: torch.save hides the cause where the disk is full.
    file = io.BytesIO()
    torch.save({**content, "record": asdict(checkpoint.record)}, file)
    with replacing(path) as temporary:
        temporary.write_bytes(file.getbuffer())


def load_checked(path: Path) -> dict[str, Any]:
    """Return what ``torch.save`` has written, on the CPU; a file that is damaged anywhere raises an error."""
    # torch.load does not look at the checksums that torch.save has written.
    with zipfile.ZipFile(path) as archive:
        # torch.save compresses nothing.
        if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:
            raise zipfile.BadZipFile("it would unpack to more than the file holds")
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"the checksum of its part {damaged} is wrong")
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


def read_checkpoint(path: Path) -> Checkpoint | None:
    """Return the checkpoint, on the CPU, or None where there is no file.

    Raises:
        CheckpointError: the file is damaged or holds something else.
    """
    try:
        return _checkpoint(load_checked(path))
    except FileNotFoundError:
        return None
    except Exception as error:  # zipfile, zlib, torch and pickle each have their own kinds for a damaged file
        raise CheckpointError(
            f"the checkpoint {path} cannot be read: {first_line(error)}. Delete it, then resume: what it "
            "held is trained again, with the same numbers, and all else is kept"
        ) from error


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, or its kind where it says nothing.

    Example:
        >>> first_line(EOFError()), first_line(ValueError("no number"))
        ('EOFError', 'no number')
    """
    return next(iter(str(error).splitlines()), type(error).__name__)


def _checkpoint(content: dict[str, Any]) -> Checkpoint:
    found = Checkpoint(**{**content, "record": _record(content["record"])})
    numbers = type(found.task) is type(found.epoch) is int and min(found.task, found.epoch) >= 0
    states = all(isinstance(each, dict) for each in (found.weights, found.optimizer, found.synapses))
    generators = type(found.noise) is list and all(
        isinstance(each, torch.Tensor) and each.dtype == torch.uint8 for each in (found.order, *found.noise)
    )
    if not (numbers and states and generators and type(found.seconds) is float):
        raise ValueError("it holds something else")
    return found


def _record(content: object) -> Record:
    field = Value(content, "record", "").record(tuple(each.name for each in fields(Record)))
    return Record(
        baseline=field["baseline"].items(Value.fraction),
        accuracy=field["accuracy"].items(lambda row: row.items(Value.fraction)),
        train_accuracy=field["train_accuracy"].items(Value.fraction),
        final_train_accuracy=field["final_train_accuracy"].items(Value.fraction),
        task_seconds=field["task_seconds"].items(Value.number),
        path_correlation={
            name: rows.items(lambda row: row.items(Value.correlation))
            for name, rows in field["path_correlation"].members().items()
        },
    )
