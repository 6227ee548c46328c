"""Streams are made from one data set: nothing lost, nothing changed, the same for the same seed."""

from __future__ import annotations

import re

import pytest
import torch

from synaptic_intelligence.tasks import Task, permute_pixels, split_by_class


@pytest.fixture
def data() -> Task:
    """Ten classes; the first pixel of each example is its label, the second its number."""

    def examples(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        numbers = torch.arange(count)
        labels = (numbers * 7) % 10
        rest = torch.arange(count * 4).view(count, 4) % 251
        return torch.cat([labels[:, None], numbers[:, None], rest], dim=1).to(torch.uint8), labels

    train, test = examples(60), examples(20)
    return Task("data", *train, *test, classes=tuple(range(10)))


def test_a_split_keeps_labels_examples_and_their_order(data: Task) -> None:
    tasks = split_by_class(data, [(0, 1), (5, 2)])
    assert [task.classes for task in tasks] == [(0, 1), (2, 5)]
    for task in tasks:
        for part in ("train", "test"):
            inputs, targets = getattr(task, f"{part}_inputs"), getattr(task, f"{part}_targets")
            wanted = [label in task.classes for label in getattr(data, f"{part}_targets").tolist()]
            assert inputs.dtype == torch.uint8
            assert inputs.tolist() == [
                row for row, keep in zip(getattr(data, f"{part}_inputs").tolist(), wanted, strict=True) if keep
            ]
            assert targets.tolist() == inputs[:, 0].tolist()


def test_a_split_into_all_classes_is_a_partition(data: Task) -> None:
    tasks = split_by_class(data, [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)])
    numbers = torch.cat([task.train_inputs[:, 1] for task in tasks])
    assert sorted(numbers.tolist()) == list(range(60))


@pytest.mark.parametrize(
    ("group", "name"),
    [([3], "3"), ([1, 0], "0/1"), ([2, 3, 4], "2-4"), ([2, 3, 5], "2/3/5"), (range(10), "0-9")],
)
def test_a_split_is_named_by_its_classes(data: Task, group: list[int], name: str) -> None:
    assert split_by_class(data, [group])[0].name == name


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([], "groups must be one or more groups"),
        ([(0, 1), ()], "groups must be one or more groups"),
        ([(0, 1), (10, -3)], "groups names classes [-3, 10]; 'data' has"),
        ([(0, 1), (1, 2)], "groups names classes more than once: [1]"),
        ([(4, 4)], "groups names classes more than once: [4]"),
    ],
)
def test_a_split_that_makes_no_sense_is_refused(data: Task, groups: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        split_by_class(data, groups)


def test_permuted_tasks_hold_the_pixels_of_the_data_in_the_order_of_the_seed(data: Task) -> None:
    tasks = permute_pixels(data, 3, seed=7)
    assert [task.name for task in tasks] == ["permutation 1", "permutation 2", "permutation 3"]
    # The contract, in full: one generator, one randperm per task, in turn.
    generator = torch.Generator().manual_seed(7)
    orders = [torch.randperm(6, generator=generator) for _ in range(3)]
    orders[0] = torch.arange(6)
    for task, order in zip(tasks, orders, strict=True):
        assert task.train_inputs.dtype == torch.uint8
        assert torch.equal(task.train_inputs, data.train_inputs[:, order])
        assert torch.equal(task.test_inputs, data.test_inputs[:, order])
        assert task.train_targets is data.train_targets
        assert task.classes == data.classes
    assert tasks[0].train_inputs is data.train_inputs
    assert not torch.equal(tasks[1].train_inputs, tasks[2].train_inputs)


def test_permutations_do_not_depend_on_the_number_of_tasks_or_on_the_first(data: Task) -> None:
    few, many = permute_pixels(data, 2, seed=3), permute_pixels(data, 5, seed=3)
    all_permuted = permute_pixels(data, 2, seed=3, first_identity=False)
    assert torch.equal(few[1].train_inputs, many[1].train_inputs)
    assert torch.equal(few[1].train_inputs, all_permuted[1].train_inputs)
    assert not torch.equal(all_permuted[0].train_inputs, data.train_inputs)


def test_permutations_neither_read_nor_move_the_global_random_state(data: Task) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = permute_pixels(data, 3, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = permute_pixels(data, 3, seed=3)
    assert torch.equal(first[2].train_inputs, second[2].train_inputs)


def test_another_seed_gives_other_permutations(data: Task) -> None:
    one, other = permute_pixels(data, 2, seed=0)[1], permute_pixels(data, 2, seed=1)[1]
    assert not torch.equal(one.train_inputs, other.train_inputs)


def test_permute_pixels_refuses_no_tasks(data: Task) -> None:
    with pytest.raises(ValueError, match="tasks must be at least 1, not 0"):
        permute_pixels(data, 0, seed=0)


def test_permute_pixels_refuses_images_that_are_not_flat() -> None:
    images, labels = torch.zeros(2, 28, 28), torch.tensor([0, 1])
    data = Task("images", images, labels, images, labels, classes=(0, 1))
    with pytest.raises(ValueError, match=r"must be flattened to \[N, pixels\]; they are \[2, 28, 28\]"):
        permute_pixels(data, 2, seed=0)
