"""DistributedDataParallel: two gloo ranks against one process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from oracle import assert_close
from stacks.example import first_task_accuracies, run_example
from stacks.jobs import Form, Job, Kind, count_messages, fisher_omega, fisher_with_batch_norm, message_of, train
from stacks.plain import assert_same, train_plainly
from stacks.ranks import Ranks

pytestmark = pytest.mark.stack("DDP")


@pytest.mark.parametrize("clip", [None, 0.05], ids=["", "clipped"])
@pytest.mark.parametrize("form", ["hooks", "inside"])
def test_two_ranks_equal_one_process_within_1e_12(two_ranks: Ranks, form: Form, clip: float | None) -> None:
    """Each rank has half of each batch; around an optimizer and inside, with and without clipping."""
    first, second = two_ranks.run(train, Job("ddp", form, clip=clip))
    assert_same(first, second)
    assert_same(first, train_plainly(dtype=torch.float64, clip=clip), weights=1e-12, importance=1e-12)


@pytest.mark.parametrize("form", ["hooks", "inside"])
def test_a_step_communicates_nothing(two_ranks: Ranks, form: Form) -> None:
    """A step with synapses sends no message: the gradients are summed already."""
    assert two_ranks.run(count_messages, "ddp", form) == [0, 0]


@pytest.mark.parametrize("kind", ["exact", "empirical"])
def test_fisher_counts_the_data_of_all_ranks_within_1e_12(two_ranks: Ranks, kind: Kind) -> None:
    """Each rank estimates from its own data, of other sizes, and the sums are added up."""
    expected, _ = fisher_omega(0, "bare", kind)
    for omega, untouched in two_ranks.run(fisher_omega, "ddp", kind):
        assert_close(omega.items(), expected, 1e-12)
        assert untouched


def test_fisher_of_the_unwrapped_model_is_refused(two_ranks: Ranks) -> None:
    """The inner module does not say that there are other ranks, which would go ways of their own."""
    for message in two_ranks.run(message_of, "fisher_of_the_inner_module"):
        assert message.startswith("SynapseError: this is one of 2 processes")
        assert "give the estimator the wrapped model" in message


def test_fisher_of_a_compiled_model_within_1e_12(two_ranks: Ranks) -> None:
    """DDP inside torch.compile is found, and its ranks are counted."""
    expected, _ = fisher_omega(0, "bare", "exact")
    for omega, _ in two_ranks.run(fisher_omega, "ddp", "exact", "compiled"):
        assert_close(omega.items(), expected, 1e-12)


def test_fisher_with_batch_norm_within_1e_12(two_ranks: Ranks) -> None:
    """All ranks estimate with the running means of the first, and have their own afterwards."""
    for omega, untouched in two_ranks.run(fisher_with_batch_norm, "ddp"):
        assert_close(omega.items(), fisher_with_batch_norm(0, "bare")[0], 1e-12)
        assert untouched


def test_accumulation_without_synchronisation_within_1e_12(two_ranks: Ranks) -> None:
    """``no_sync``: two batches make a step, and gradients are summed over ranks at the second."""
    first, second = two_ranks.run(train, Job("ddp", accumulate=2))
    assert_same(first, second)
    assert_same(first, train_plainly(dtype=torch.float64, accumulate=2), weights=1e-12, importance=1e-12)


def test_the_example_keeps_the_first_task_better_with_synapses(tmp_path: Path) -> None:
    """``examples/data_parallel.py`` under torchrun."""
    with_synapses, without = first_task_accuracies(run_example("data_parallel.py", tmp_path, ranks=2))
    assert with_synapses > without + 0.1
