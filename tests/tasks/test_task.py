"""A task checks what it is given, and travels between devices and processes."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest
import torch

from synaptic_intelligence.tasks import Task


def fields(**changes: Any) -> dict[str, Any]:
    """Return what a small, sound task is made from, with some of it changed."""
    return {
        "name": "small",
        "train_inputs": torch.zeros(4, 3, dtype=torch.uint8),
        "train_targets": torch.tensor([2, 5, 5, 2]),
        "test_inputs": torch.zeros(2, 3, dtype=torch.uint8),
        "test_targets": torch.tensor([5, 2]),
        "classes": (2, 5),
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ()}, r"'small': classes must ascend"),
        ({"classes": (5, 2)}, r"classes must ascend, without repeats: \(5, 2\)"),
        ({"classes": (2, 2, 5)}, "classes must ascend"),
        ({"classes": (2,)}, r"train_targets hold labels outside classes=\(2,\): \[5\]"),
        ({"test_targets": torch.tensor([2, 7])}, r"test_targets hold labels outside classes=\(2, 5\): \[7\]"),
        ({"train_targets": torch.tensor([2, 5])}, "train_inputs have shape"),
        ({"train_inputs": torch.tensor(1.0)}, "train_inputs have shape"),
        ({"test_inputs": torch.zeros(0, 3), "test_targets": torch.zeros(0).long()}, "at least one"),
        ({"train_targets": torch.tensor([2, 5, 5, 2], dtype=torch.int32)}, "train_targets must be int64"),
        ({"test_targets": torch.tensor([[5], [2]])}, r"test_targets must be int64 of shape \[N\], not"),
        ({"train_inputs": torch.zeros(4, 3, dtype=torch.int64)}, "train_inputs must be uint8"),
        ({"test_inputs": torch.zeros(2, 4, dtype=torch.uint8)}, "must have the same shape and type"),
        ({"test_inputs": torch.zeros(2, 3)}, "must have the same shape and type"),
    ],
)
def test_a_task_that_does_not_fit_together_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Task(**fields(**changes))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64])
def test_inputs_keep_their_type_and_shape(dtype: torch.dtype) -> None:
    images = torch.zeros(4, 3, 8, 8, dtype=dtype)
    task = Task(**fields(train_inputs=images, test_inputs=images[:2]))
    assert task.train_inputs is images


@pytest.mark.parametrize("field", ["name", "train_inputs", "classes"])
def test_a_task_is_frozen(field: str) -> None:
    task = Task(**fields())
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(task, field, fields()[field])


def test_to_shares_what_is_there_already() -> None:
    task = Task(**fields())
    copy = task.to("cpu")
    assert (copy.name, copy.classes) == (task.name, task.classes)
    for name in ("train_inputs", "train_targets", "test_inputs", "test_targets"):
        assert getattr(copy, name) is getattr(task, name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_to_moves_every_tensor() -> None:
    task = Task(**fields()).to("cuda")
    for name in ("train_inputs", "train_targets", "test_inputs", "test_targets"):
        assert getattr(task, name).is_cuda


def test_a_task_survives_pickling_for_worker_processes() -> None:
    task = Task(**fields(train_inputs=torch.arange(12, dtype=torch.uint8).view(4, 3)))
    copy: Task = pickle.loads(pickle.dumps(task))
    assert repr(copy) == repr(task) == "Task('small', train=4, test=2, inputs=[3] uint8, classes=(2, 5))"
    assert torch.equal(copy.train_inputs, task.train_inputs)
    assert torch.equal(copy.test_targets, task.test_targets)
