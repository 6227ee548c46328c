"""One head in a class-incremental stream is found, and nothing that resembles it is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from operations import Ops
from torch import Tensor, nn

from synaptic_intelligence.diagnosis.classes import LABELS, Classes


def seen(*tasks: list[int]) -> Classes:
    classes = Classes()
    for labels in tasks:
        classes.end_task()
        classes.observe(torch.tensor(labels))
    return classes


def body(outputs: int = 16) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, outputs), nn.LayerNorm(outputs), nn.ReLU())


def masked(logits: Tensor, classes: list[int]) -> Tensor:
    mask = torch.full_like(logits, float("-inf"))
    mask[:, classes] = 0
    return logits + mask


def moved(classes: Classes, parameters: list[nn.Parameter], loss: Tensor) -> int:
    loss.backward()
    return classes.outputs_moved([parameters])


def batch(labels: list[int]) -> tuple[Tensor, Tensor]:
    return torch.randn(len(labels), 6), torch.tensor(labels)


def test_labels_of_all_batches_and_of_all_tasks_before_are_told() -> None:
    classes = seen([0, 1], [5])
    classes.observe(torch.tensor([[7, 5], [-100, -1]], dtype=torch.int32))
    assert (classes.present(), classes.earlier()) == ({5, 7}, {0, 1})
    classes.end_task()
    classes.end_task()  # a task without labels changes nothing
    assert (classes.present(), classes.earlier()) == (set(), {0, 1, 5, 7})


def test_labels_beyond_the_last_count_as_one() -> None:
    assert seen([LABELS - 1, LABELS, 10**12]).present() == {LABELS - 1}


@pytest.mark.parametrize("targets", [torch.rand(4), torch.rand(4, 3) > 0.5, torch.rand(2).to(torch.complex64)])
def test_targets_that_are_no_labels_are_passed_over(targets: Tensor) -> None:
    classes = Classes()
    classes.observe(targets)
    assert classes.present() == set()


def test_targets_that_are_no_tensor_are_refused() -> None:
    with pytest.raises(TypeError, match="targets must be a tensor of class labels"):
        Classes().observe([0, 1])  # type: ignore[arg-type]


def test_noting_labels_and_ending_a_task_do_not_wait_for_the_device() -> None:
    classes = Classes()
    with Ops() as ops:
        for labels in (torch.tensor([0, 1]), torch.tensor([2], dtype=torch.uint8)):
            classes.observe(labels)
            classes.end_task()
    assert ops.seen
    assert [op for op in ops.seen if "_local_scalar_dense" in op or "nonzero" in op] == []
    assert classes.earlier() == {0, 1, 2}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_head_for_classes_of_two_tasks_is_found(dtype: torch.dtype, smoothing: float) -> None:
    model = nn.Sequential(*body(), nn.Linear(16, 4)).to(dtype)
    x, y = batch([2, 3, 3, 2])
    loss = F.cross_entropy(model(x.to(dtype)), y, label_smoothing=smoothing)
    assert moved(seen([0, 1], [2, 3]), list(model.parameters()), loss) == 2


def test_one_head_is_found_where_one_class_of_many_is_shared_as_a_background_is() -> None:
    model = nn.Linear(6, 22)
    x, y = batch([0, *range(11, 22)])
    classes = seen(list(range(11)), y.tolist())
    assert moved(classes, list(model.parameters()), F.cross_entropy(model(x), y)) == 10


def test_one_head_that_is_a_convolution_is_found() -> None:
    model = nn.Conv2d(3, 4, 1)
    y = torch.tensor([2, 3]).view(2, 1, 1).expand(2, 5, 5)
    loss = F.cross_entropy(model(torch.randn(2, 3, 5, 5)), y)
    assert moved(seen([0, 1], [2, 3]), list(model.parameters()), loss) == 2


def test_masked_logits_are_heads_of_their_own() -> None:
    model = nn.Sequential(*body(), nn.Linear(16, 4))
    x, y = batch([2, 3, 3, 2])
    loss = F.cross_entropy(masked(model(x), [2, 3]), y)
    assert moved(seen([0, 1], [2, 3]), list(model.parameters()), loss) == 0


def test_heads_of_their_own_with_labels_of_all_tasks_are_none() -> None:
    # The body ends in a layer whose gradient adds up to zero as well (LayerNorm), with more rows than classes.
    trunk, heads = body(), nn.ModuleList([nn.Linear(16, 2), nn.Linear(16, 2)])
    x, y = batch([2, 3, 3, 2])
    loss = F.cross_entropy(heads[1](trunk(x)), y - 2)
    assert moved(seen([0, 1], [2, 3]), [*trunk.parameters(), *heads.parameters()], loss) == 0
    # zero_grad(set_to_none=False) leaves zeros at the head that comes last.
    for p in heads[0].parameters():
        p.grad = torch.zeros_like(p)
    mixed = [*trunk.parameters(), *heads[1].parameters(), *heads[0].parameters()]
    assert seen([0, 1], [2, 3]).outputs_moved([mixed]) == 0


def test_where_parts_may_both_hold_the_output_layer_none_is_found_unless_both_say_so() -> None:
    trunk, head = body(), nn.Linear(16, 4)
    x, y = batch([2, 3, 3, 2])
    F.cross_entropy(masked(head(trunk(x)), [2, 3]), y).backward()
    body_and_head, classes = [list(trunk.parameters()), list(head.parameters())], seen([0, 1], [2, 3])
    assert classes.outputs_moved(body_and_head[:1]) == 2  # the layer before LayerNorm looks like a head
    assert classes.outputs_moved(body_and_head) == 0
    assert classes.outputs_moved(body_and_head[::-1]) == 0
    head.zero_grad()
    F.cross_entropy(head(trunk(x)), y).backward()
    assert classes.outputs_moved(body_and_head[::-1]) == 2


@pytest.mark.parametrize(("ignored", "in_both"), [(255, True), (255, False), (4, True), (21, True)])
def test_one_label_that_the_loss_ignores_does_not_hide_one_head(ignored: int, in_both: bool) -> None:
    model = nn.Linear(6, 4)
    x, y = batch([2, 3, ignored, 2])
    classes = seen([0, 1, *[ignored] * in_both], y.tolist())
    assert moved(classes, list(model.parameters()), F.cross_entropy(model(x), y, ignore_index=ignored)) == 2


def test_the_ignored_label_counts_as_no_class_that_was_known() -> None:
    model = nn.Linear(6, 4)
    x, y = batch([2, 2, 255, 2])  # with 255, one of two labels would be known
    classes = seen([0, 1, 255], y.tolist())
    assert moved(classes, list(model.parameters()), F.cross_entropy(model(x), y, ignore_index=255)) == 2
    assert seen([255], [255]).outputs_moved([list(model.parameters())]) == 0


@pytest.mark.parametrize("labels", [([0, 1], [2, 3]), ([0, 1, 8], [2, 3, 8]), ([0, 9], [1, 8, 9]), ([0, 1], [2, 7])])
def test_rows_that_cannot_be_those_of_the_classes_are_none(labels: tuple[list[int], list[int]]) -> None:
    model = nn.Linear(6, 3)  # such as a head of its own for each task, of more outputs than the first has labels
    x, y = batch([0, 1, 2])
    assert moved(seen(*labels), list(model.parameters()), F.cross_entropy(model(x), y)) == 0


def test_the_same_labels_in_each_task_are_none() -> None:
    model = nn.Sequential(*body(), nn.Linear(16, 4))
    x, y = batch([0, 1, 2, 3])
    assert moved(seen([0, 1, 2, 3], [0, 1, 2, 3]), list(model.parameters()), F.cross_entropy(model(x), y)) == 0
    assert seen([0, 1, 2, 3], [2]).outputs_moved([list(model.parameters())]) == 0  # the first batch of such a task


def test_old_data_beside_the_new_is_none() -> None:
    model = nn.Linear(6, 4)
    x, y = batch([0, 1, 2, 3])
    assert moved(seen([0, 1], y.tolist()), list(model.parameters()), F.cross_entropy(model(x), y)) == 0


def test_a_first_task_or_one_without_gradients_is_none() -> None:
    model = nn.Linear(6, 4)
    x, y = batch([2, 3])
    assert seen([0, 1], [2, 3]).outputs_moved([list(model.parameters())]) == 0
    assert moved(seen([2, 3]), list(model.parameters()), F.cross_entropy(model(x), y)) == 0


def test_a_loss_without_softmax_has_no_such_output_layer() -> None:
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
    x, y = batch([2, 3, 3, 2])
    one_hot = F.one_hot(y, 4).float()
    loss = F.binary_cross_entropy_with_logits(model(x), one_hot)
    assert moved(seen([0, 1], [2, 3]), list(model.parameters()), loss) == 0
