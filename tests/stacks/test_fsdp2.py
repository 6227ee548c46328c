"""FSDP2 (fully_shard): two gloo ranks against one process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from oracle import assert_close, small_model
from stacks.example import first_task_accuracies, run_example
from stacks.jobs import (
    Form,
    Job,
    Kind,
    count_messages,
    fisher_omega,
    fisher_with_batch_norm,
    load_importance,
    message_of,
    optimizer_and_synapses,
    penalty_and_memory,
    pull_without_gradient,
    save_importance,
    shard_after_a_task,
    train,
    whole_outcome,
)
from stacks.plain import assert_same, train_plainly
from stacks.ranks import Ranks

pytestmark = pytest.mark.stack("FSDP2")


@pytest.mark.parametrize("clip", [None, 0.05], ids=["", "clipped"])
@pytest.mark.parametrize("form", ["hooks", "inside"])
def test_two_ranks_equal_one_process_within_1e_12(two_ranks: Ranks, form: Form, clip: float | None) -> None:
    """Each rank has half of each batch and half of each parameter, some of them uneven halves."""
    first, second = two_ranks.run(train, Job("fsdp2", form, clip=clip))
    assert_same(first, second)
    assert_same(first, train_plainly(dtype=torch.float64, clip=clip), weights=1e-12, importance=1e-12)


@pytest.mark.parametrize("form", ["hooks", "inside"])
def test_a_step_communicates_nothing(two_ranks: Ranks, form: Form) -> None:
    """A step with synapses sends no message: each rank computes on its own part."""
    assert two_ranks.run(count_messages, "fsdp2", form) == [0, 0]


def test_a_model_that_is_sharded_after_its_first_task_within_1e_12(two_ranks: Ranks) -> None:
    """``attach(optimizer, model.named_parameters())`` shards importance and anchor as the parameters are."""
    first, second = two_ranks.run(shard_after_a_task)
    assert_same(first, second)
    assert_same(first, train_plainly(dtype=torch.float64), weights=1e-12, importance=1e-12)


@pytest.mark.parametrize("kind", ["exact", "empirical"])
def test_fisher_counts_the_data_of_all_ranks_within_1e_12(two_ranks: Ranks, kind: Kind) -> None:
    """All ranks see the same sample, one at a time, and each rank's samples in turn."""
    expected, _ = fisher_omega(0, "bare", kind)
    for omega, untouched in two_ranks.run(fisher_omega, "fsdp2", kind):
        assert_close(omega.items(), expected, 1e-12)
        assert untouched


def test_fisher_with_batch_norm_within_1e_12(two_ranks: Ranks) -> None:
    """All ranks estimate with the running means of the first, and have their own afterwards."""
    for omega, untouched in two_ranks.run(fisher_with_batch_norm, "fsdp2"):
        assert_close(omega.items(), fisher_with_batch_norm(0, "bare")[0], 1e-12)
        assert untouched


@pytest.mark.parametrize(
    ("mistake", "said"),
    [("fisher_while_accumulating", "set_requires_gradient_sync"), ("fisher_of_sums", "set_gradient_divide_factor")],
)
def test_fisher_of_gradients_that_are_no_means_is_refused(two_ranks: Ranks, mistake: str, said: str) -> None:
    """Where FSDP2 does not leave the mean over ranks in ``p.grad``, their size is not known."""
    first, second = two_ranks.run(message_of, mistake)
    assert first == second
    assert first.startswith("SynapseError")
    assert said in first


def test_accumulation_without_synchronisation_within_1e_12(two_ranks: Ranks) -> None:
    """``set_requires_gradient_sync(False)`` but for the second batch of each step."""
    first, second = two_ranks.run(train, Job("fsdp2", accumulate=2))
    assert_same(first, second)
    assert_same(first, train_plainly(dtype=torch.float64, accumulate=2), weights=1e-12, importance=1e-12)


def test_an_importance_file_is_whole_bit_for_bit(two_ranks: Ranks, tmp_path: Path) -> None:
    """``save`` on all ranks writes one file, which loads into one process and into two ranks."""
    file = tmp_path / "importance.safetensors"
    saved, _ = two_ranks.run(save_importance, file)
    bare = small_model(torch.float64)
    _, synapses = optimizer_and_synapses(bare, "hooks")
    synapses.load(file)
    found = [whole_outcome(bare, synapses), *two_ranks.run(load_importance, file)]
    for kind in ("omega", "path", "anchor"):
        for each in found:
            assert_close(getattr(each, kind).items(), getattr(saved, kind), 0.0)
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_cannot_be_written_fails_on_every_rank(two_ranks: Ranks, tmp_path: Path) -> None:
    """The first rank alone writes; where it cannot, no rank goes on as if it had."""
    first, second = two_ranks.run(message_of, "save_importance", tmp_path / "nowhere" / "file.safetensors")
    assert first == second
    assert first.startswith("FileNotFoundError")


def test_a_file_that_one_rank_cannot_read_fails_on_every_rank(two_ranks: Ranks, tmp_path: Path) -> None:
    """No rank goes on with an importance that another has not."""
    file = tmp_path / "importance.safetensors"
    two_ranks.run(save_importance, file)
    first, second = two_ranks.run(message_of, "load_where_it_is", file)
    assert first == second
    assert first.startswith("FileNotFoundError")


def test_what_is_not_finite_on_one_rank_is_refused_on_every_rank(two_ranks: Ranks) -> None:
    """``consolidate`` is all or nothing over all ranks."""
    first, second = two_ranks.run(message_of, "consolidate_with_a_hole")
    assert first == second
    assert first == "SynapseError: parameter ['0.weight'] is not finite; nothing was changed"


def test_penalty_is_that_of_all_parts_and_memory_of_its_own_within_1e_12(two_ranks: Ranks) -> None:
    """``penalty()`` gives every rank the same number, and ``memory()`` what this rank holds."""
    expected, *_ = penalty_and_memory(0, "bare")
    for penalty, memory, own in two_ranks.run(penalty_and_memory, "fsdp2"):
        assert float(penalty) == pytest.approx(float(expected), rel=1e-12)
        assert memory.parameters == own
        assert memory.path == memory.anchor == memory.omega == 8 * own
    assert float(expected) > 0


def test_what_gets_no_gradient_is_pulled_within_1e_12(two_ranks: Ranks) -> None:
    """A layer with importance and without a gradient is pulled to its anchor, as with the penalty in the loss."""
    first, second = two_ranks.run(pull_without_gradient, "fsdp2")
    assert_same(first, second)
    assert_same(first, pull_without_gradient(0, "bare"), weights=1e-12, importance=1e-12)


def test_strengths_of_replicates_are_refused(two_ranks: Ranks) -> None:
    """A tensor of strengths belongs to a leading axis, which shards cut."""
    first, second = two_ranks.run(message_of, "strength_for_each_replicate")
    assert first == second
    assert first.startswith("TypeError: c is one strength for each replicate, and parameter '0.weight' is sharded")


def test_the_example_keeps_the_first_task_better_with_synapses(tmp_path: Path) -> None:
    """``examples/fully_sharded.py`` under torchrun."""
    with_synapses, without = first_task_accuracies(run_example("fully_sharded.py", tmp_path, ranks=2))
    assert with_synapses > without + 0.1
