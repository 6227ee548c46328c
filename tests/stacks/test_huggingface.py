"""The Trainer of Hugging Face against the plain loop: the same batches, seeds and order."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from stacks.by_rank import train_by_trainer
from stacks.example import first_task_accuracies, run_example
from stacks.plain import (
    RATE,
    TASKS,
    XI,
    Batches,
    C,
    Outcome,
    assert_same,
    batches,
    outcome_of,
    synapses_of,
    train_plainly,
)
from stacks.ranks import Ranks
from stacks.trainers import AtEnd, Classifier, Crash, Stop, adamw, fast_and_tidy, rows, sgd, synaptic, trainer_of
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, Trainer, TrainerControl, TrainerState

import synaptic_intelligence as si
from synaptic_intelligence.integrations import huggingface
from synaptic_intelligence.integrations.huggingface import SynapticCallback

pytestmark = [pytest.mark.stack("Hugging Face Trainer"), pytest.mark.usefixtures("fast_and_tidy")]

__all__ = ["fast_and_tidy"]  # a fixture

SGD: dict[str, Any] = {"optim": "sgd", "learning_rate": 0.1}
EVERY_5: dict[str, Any] = {"save_strategy": "steps", "save_steps": 5}

# The numbers.


def three_tasks(folder: Path, callback: SynapticCallback, *others: Any, **options: Any) -> Outcome:
    """Train three tasks in one Trainer, which keeps its optimizer; return what there was before the last one ended."""
    end = AtEnd(callback)
    trainer = trainer_of(folder, Classifier(), [], *others, end, callback, **options)
    for task in range(TASKS):
        trainer.train_dataset = rows(task)
        trainer.train()
    assert end.outcome is not None
    return end.outcome


@pytest.mark.parametrize("clip", [None, 0.5], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("accumulate", [1, 3], ids=["every batch", "accumulated"])
def test_three_tasks_equal_the_plain_loop_bit_for_bit(tmp_path: Path, accumulate: int, clip: float | None) -> None:
    """One callback gives the numbers of the loop written out, with accumulated and with clipped gradients too."""
    callback = synaptic()
    found = three_tasks(tmp_path, callback, gradient_accumulation_steps=accumulate, max_grad_norm=clip or 0.0)
    assert_same(found, train_plainly(make_optimizer=adamw, accumulate=accumulate, clip=clip))
    assert callback.synapses.tasks == TASKS  # the last train() has ended a task too


def plain_loop(loss_of: Callable[[nn.Module, Tensor, Tensor, Batches], Tensor], *, accumulate: int = 1) -> Outcome:
    """The plain loop with a loss that may look at all batches of the step."""
    model = Classifier()
    optimizer = adamw(model.parameters())
    synapses = synapses_of(model, optimizer)
    for task in range(TASKS):
        for first in range(0, len(batches(task)), accumulate):
            step = batches(task)[first : first + accumulate]
            for x, y in step:
                loss_of(model, x, y, step).backward()
            optimizer.step()
            optimizer.zero_grad()
        if task + 1 < TASKS:
            synapses.consolidate()
    return outcome_of(model, synapses)


def test_autocast_to_bfloat16_equals_the_plain_loop_bit_for_bit(tmp_path: Path) -> None:
    """With bf16=True the numbers are those of a loop under torch.autocast."""

    def loss_of(model: nn.Module, x: Tensor, y: Tensor, step: Batches) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            loss: Tensor = model(x, y)["loss"]
        return loss

    assert_same(three_tasks(tmp_path, synaptic(), bf16=True), plain_loop(loss_of))


def test_a_loss_per_item_of_accumulated_batches_equals_the_plain_loop_bit_for_bit(tmp_path: Path) -> None:
    """Where losses are summed over a step and divided by its items, as in models of transformers, so is the path."""

    def loss_of(model: nn.Module, x: Tensor, y: Tensor, step: Batches) -> Tensor:
        return F.cross_entropy(model(x)["logits"], y, reduction="sum") / sum(len(labels) for _, labels in step)

    def compute(outputs: dict[str, Tensor], labels: Tensor, num_items_in_batch: Tensor) -> Tensor:
        return F.cross_entropy(outputs["logits"], labels, reduction="sum") / num_items_in_batch

    parts = {"compute_loss_func": compute}
    found = three_tasks(tmp_path, synaptic(), parts=parts, gradient_accumulation_steps=3)
    assert_same(found, plain_loop(loss_of, accumulate=3))


@pytest.mark.parametrize("new", ["trainer", "model", "process"])
def test_a_trainer_for_each_task_equals_the_plain_loop_bit_for_bit(tmp_path: Path, new: str) -> None:
    """The synapses follow to the next Trainer, to a copy of the model, and through a file to the next process."""
    model, callback, file = Classifier(), synaptic(), None
    for task in range(TASKS):
        if new != "trainer":
            weights = model.state_dict()
            model = Classifier()
            model.load_state_dict(weights)
        if new == "process":
            callback = synaptic(start=file)
        end = AtEnd(callback)
        trainer_of(tmp_path, model, rows(task), end, callback, **SGD).train()
        callback.synapses.save(file := tmp_path / f"after-{task}.safetensors")
    assert end.outcome is not None
    assert_same(end.outcome, train_plainly(make_optimizer=sgd))


def test_an_optimizer_with_the_synapses_inside_needs_no_callback_within_1e_6(tmp_path: Path) -> None:
    """The Trainer's own checkpoints hold what si.optim.AdamW has; consolidate() is called between tasks."""

    def trainer_and(task: int, model: nn.Module) -> tuple[Trainer, si.optim.AdamW]:
        optimizer = si.optim.AdamW(model.named_parameters(), lr=RATE, weight_decay=0.0, c=C, xi=XI)
        parts = {"optimizers": (optimizer, None)}
        return trainer_of(tmp_path, model, rows(task), parts=parts, **EVERY_5), optimizer

    model = Classifier()
    trainer, optimizer = trainer_and(0, model)
    for task in range(TASKS):
        trainer.train_dataset = rows(task)
        trainer.train()
        if task + 1 < TASKS:
            optimizer.consolidate()
    found = outcome_of(model, optimizer.synapses)
    assert_same(found, train_plainly(make_optimizer=adamw), weights=1e-6, importance=1e-6)
    model = Classifier()
    trainer, optimizer = trainer_and(TASKS - 1, model)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert_same(outcome_of(model, optimizer.synapses), found)


# The end of a task.


def test_a_callback_that_stops_training_ends_the_task_bit_for_bit(tmp_path: Path) -> None:
    """A task that was stopped early is a shorter task."""
    callback = synaptic()
    found = three_tasks(tmp_path, callback, Stop(after=7))
    assert_same(found, train_plainly(make_optimizer=adamw, of=lambda task: batches(task)[:7]))
    assert callback.synapses.tasks == TASKS


def test_going_back_to_the_best_step_equals_stopping_there_bit_for_bit(tmp_path: Path) -> None:
    """With load_best_model_at_end and early stopping, path and anchor are of the step whose weights came back."""
    model, callback = Classifier(), synaptic(boundary="manual")
    for task in range(TASKS):
        scores = iter([0.1, 0.9, 0.3])
        trainer = trainer_of(
            tmp_path / f"{task}",
            model,
            rows(task),
            EarlyStoppingCallback(early_stopping_patience=1),
            callback,
            parts={"eval_dataset": rows(task)[:16], "compute_metrics": lambda _: {"score": next(scores)}},  # noqa: B023
            eval_strategy="steps",
            eval_steps=3,
            save_strategy="steps",
            save_steps=3,
            save_total_limit=1,
            load_best_model_at_end=True,
            metric_for_best_model="score",
            greater_is_better=True,
            **SGD,
        )
        assert trainer.train().global_step == 9
        if task + 1 < TASKS:
            callback.synapses.consolidate()
    found = outcome_of(model, callback.synapses)
    assert_same(found, train_plainly(make_optimizer=sgd, of=lambda task: batches(task)[:6]))


def test_a_task_ends_by_hand_where_it_is_asked_for(tmp_path: Path) -> None:
    """With boundary="manual", two calls of train() can be one task, and an estimator can be given its data."""
    model = Classifier()
    fisher = si.Fisher(nn.Sequential(*model.children()), F.cross_entropy, kind="exact")
    callback = SynapticCallback(c=C, importance=fisher, boundary="manual")
    trainer = trainer_of(tmp_path, model, rows(0), callback)
    trainer.train()
    trainer.train()
    assert callback.synapses.tasks == 0
    callback.synapses.consolidate(batches(0))
    plain = Classifier()
    optimizer = adamw(plain.parameters())
    fisher = si.Fisher(nn.Sequential(*plain.children()), F.cross_entropy, kind="exact")
    synapses = si.Consolidator(plain.named_parameters(), optimizer, fisher, c=C)
    for x, y in batches(0) + batches(0):
        optimizer.zero_grad()
        plain(x, y)["loss"].backward()
        optimizer.step()
    synapses.consolidate(batches(0))
    assert all(torch.equal(callback.synapses.omega[name], omega) for name, omega in synapses.omega.items())
    assert all(bool(omega.any()) for omega in synapses.omega.values())


# Checkpoints.


def until(
    task: int, folder: Path, callback: SynapticCallback, *others: Any, model: nn.Module, **options: Any
) -> Trainer:
    """Train some tasks, each in its own folder and Trainer; return the Trainer of the one that is next."""
    optimizer = adamw(model.parameters())
    for number in range(task + 1):
        parts = {"optimizers": (optimizer, None)}
        last = others if number == task else ()
        trainer = trainer_of(folder / f"{number}", model, rows(number), *last, callback, parts=parts, **options)
        if number < task:
            trainer.train()
    return trainer


@pytest.mark.parametrize("how", ["from the last", "from a path", "from elsewhere", "in the same process"])
def test_resuming_in_the_middle_of_a_task_ends_bit_for_bit_the_same(tmp_path: Path, how: str) -> None:
    """Interrupted at step 7 of the third task and resumed from step 5, everything is as if nothing had happened."""
    model, callback = Classifier(), synaptic()
    trainer = until(2, tmp_path, callback, Crash(after=7), model=model, **EVERY_5)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert callback.synapses.tasks == 2  # an exception ends no task
    place: Any = True
    if how == "in the same process":
        trainer.remove_callback(Crash)
        trainer.remove_callback(callback)
    else:
        del trainer
        model, callback = Classifier(), synaptic()
        options = dict(EVERY_5)
        if how != "from the last":
            place = str(tmp_path / "2" / "checkpoint-5")
        if how == "from elsewhere":
            place = shutil.move(place, tmp_path / "kept")
            options["resume_from_checkpoint"] = place
        parts = {"optimizers": (adamw(model.parameters()), None)}
        trainer = trainer_of(tmp_path / "2", model, rows(2), parts=parts, **options)
    end = AtEnd(callback)
    trainer.add_callback(end)
    trainer.add_callback(callback)
    assert trainer.train(resume_from_checkpoint=place).global_step == 12
    assert end.outcome is not None
    assert_same(end.outcome, train_plainly(make_optimizer=adamw))
    assert callback.synapses.tasks == 3


def test_few_checkpoints_are_kept_each_with_its_synapses(tmp_path: Path) -> None:
    """save_total_limit removes a checkpoint with its synapses; a Trainer that removes the newest is no error."""
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4, "save_total_limit": 2}
    trainer_of(tmp_path, Classifier(), rows(0), synaptic(), **options).train()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-12", "checkpoint-8"]
    assert len([*tmp_path.glob("*/synapses.safetensors")]) == 2
    for folder in tmp_path.iterdir():
        os.utime(folder, (2**33, 2**33))  # from here on what is new is older, and removed at once
    trainer_of(tmp_path, Classifier(), rows(0), synaptic(), **options).train()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-12", "checkpoint-8"]


def test_a_checkpoint_without_synapses_is_refused(tmp_path: Path) -> None:
    """To resume from it would lose what was learnt before; the callback can still begin anew."""
    trainer_of(tmp_path, Classifier(), rows(0), **EVERY_5, max_steps=5).train()
    callback = synaptic()
    trainer = trainer_of(tmp_path, Classifier(), rows(0), callback)
    with pytest.raises(
        si.SynapseError, match=r"no synapses of these weights in .*checkpoint-5.*resume_from_checkpoint"
    ):
        trainer.train(resume_from_checkpoint=True)
    trainer.train()
    assert callback.synapses.tasks == 1


def test_synapses_of_other_weights_are_refused(tmp_path: Path) -> None:
    """A checkpoint of the same step in output_dir is not taken for the one that training was resumed from."""
    for run in ("one", "other"):
        model = Classifier()
        nn.init.zeros_(next(model.parameters())) if run == "other" else None
        trainer_of(tmp_path / run, model, rows(0), synaptic(), **EVERY_5, max_steps=5).train()
    trainer = trainer_of(tmp_path / "one", Classifier(), rows(0), synaptic())
    with pytest.raises(si.SynapseError, match=r"no synapses of these weights in .*one.*belong to others: \['0.weight'"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "other" / "checkpoint-5"))


# What is refused.


def test_a_model_that_was_made_anew_is_refused(tmp_path: Path) -> None:
    """The synapses hold a task's weights; another model, as model_init makes for each train(), does not have them."""
    callback = synaptic()
    trainer = trainer_of(tmp_path, None, rows(0), callback, parts={"model_init": Classifier})
    trainer.train()
    with pytest.raises(si.SynapseError, match=r"without the weights that the last task ended with: \['0.weight'"):
        trainer.train()


def test_another_model_in_the_middle_of_a_task_is_refused(tmp_path: Path) -> None:
    """Its path would be that of two models."""
    callback = synaptic()
    with pytest.raises(KeyboardInterrupt):
        trainer_of(tmp_path, Classifier(), rows(0), Crash(after=2), callback).train()
    with pytest.raises(si.SynapseError, match="another model in the middle of a task"):
        trainer_of(tmp_path, Classifier(), rows(0), callback).train()


def test_another_model_before_the_first_step_is_followed(tmp_path: Path) -> None:
    """When training failed before it began, the callback goes on with the model that is made next."""
    callback = synaptic()
    with pytest.raises(TypeError, match="unexpected keyword"):
        trainer_of(
            tmp_path,
            Classifier(),
            [{"x": torch.ones(6), "labels": torch.tensor(0), "typo": torch.ones(1)}],
            callback,
            remove_unused_columns=False,
        ).train()
    model = Classifier()
    nn.init.ones_(next(model.parameters()))
    trainer_of(tmp_path, model, rows(0), Stop(after=1), callback).train()
    assert callback.synapses.tasks == 1


@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.DEEPSPEED])
def test_sharded_training_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: DistributedType) -> None:
    """A checkpoint would hold the synapses of the first process alone."""
    model = Classifier()
    trainer = trainer_of(tmp_path, model, rows(0))
    optimizer = AcceleratedOptimizer(adamw(model.parameters()))
    monkeypatch.setattr(AcceleratorState(), "distributed_type", kind)
    with pytest.raises(si.SynapseError, match="sharded"):
        synaptic().on_train_begin(trainer.args, TrainerState(), TrainerControl(), model=model, optimizer=optimizer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give xi"),
        ({"xi": 0.1, "importance": si.PathIntegral(xi=0.1)}, "give xi"),
        ({"xi": 0.1, "boundary": "epoch"}, "boundary must be 'train' or 'manual', not 'epoch'"),
        ({"importance": si.Fisher(nn.Linear(1, 1), F.cross_entropy, kind="exact")}, "fisher needs data"),
    ],
)
def test_arguments_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    """An estimator is named once, a boundary is one of two, and data comes by hand."""
    with pytest.raises(ValueError, match=re.escape(message)):
        SynapticCallback(c=1.0, **options)


def test_there_are_no_synapses_before_training_begins() -> None:
    """They need the optimizer, which the Trainer makes then."""
    with pytest.raises(si.SynapseError, match="when train"):
        _ = synaptic().synapses


def test_only_what_is_asked_for_is_protected(tmp_path: Path) -> None:
    """protect picks parameters by name, and omega_dtype is handed on."""
    callback = synaptic(protect=lambda name: name.startswith("0."), omega_dtype=torch.bfloat16)
    trainer_of(tmp_path, Classifier(), rows(0), callback, **EVERY_5).train()
    assert sorted(callback.synapses.omega) == ["0.bias", "0.weight"]
    assert {omega.dtype for omega in callback.synapses.omega.values()} == {torch.bfloat16}
    with pytest.raises(ValueError, match="nothing to protect"):
        trainer_of(tmp_path, Classifier(), rows(0), synaptic(protect=lambda name: False)).train()


def test_a_compiled_model_has_the_names_of_the_bare_one(tmp_path: Path) -> None:
    """torch.compile puts _orig_mod before each; files and protect do not see it."""
    asked: set[str] = set()

    def protect(name: str) -> bool:
        asked.add(name)
        return True

    callback, model = synaptic(protect=protect), Classifier()
    given = {"model": torch.compile(model, backend="eager"), "optimizer": adamw(model.parameters())}
    for _ in range(2):
        callback.on_train_begin(trainer_of(tmp_path, model, rows(0)).args, TrainerState(), TrainerControl(), **given)
    assert asked == {*callback.synapses.anchor} == {*dict(model.named_parameters())}


def test_a_missing_framework_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The import fails with the name of the extra."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=re.escape('pip install "synaptic-intelligence[huggingface]"')):
        runpy.run_path(str(huggingface.__file__))


def test_the_example_keeps_the_first_task_better_with_synapses(tmp_path: Path) -> None:
    """``examples/huggingface_trainer.py``."""
    with_synapses, without = first_task_accuracies(run_example("huggingface_trainer.py", tmp_path))
    assert with_synapses > without + 0.04


def test_two_ranks_equal_one_process_within_1e_6(two_ranks: Ranks, tmp_path: Path) -> None:
    """DDP in the Trainer, each rank with half of each batch, in float32."""
    first, second = two_ranks.run(train_by_trainer, tmp_path)
    assert_same(first, second)
    assert_same(first, train_plainly(make_optimizer=adamw), weights=1e-6, importance=1e-6)
