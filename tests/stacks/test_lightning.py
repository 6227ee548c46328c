"""The callback for Lightning against the plain loop."""

from __future__ import annotations

import importlib.util
import signal
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import LearningRateFinder, ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from oracle import same, small_model
from stacks.by_rank import fit_by_lightning
from stacks.example import first_task_accuracies, run_example
from stacks.plain import (
    STEPS,
    TASKS,
    XI,
    C,
    Outcome,
    adam,
    assert_same,
    batches,
    outcome_of,
    synapses_of,
    train_plainly,
)
from stacks.ranks import Ranks
from torch import Tensor, nn

import synaptic_intelligence as si
from synaptic_intelligence.integrations import lightning
from synaptic_intelligence.integrations.lightning import SynapticCallback

pytestmark = [
    pytest.mark.stack("Lightning"),
    # Lightning 2.6 with torch 2.13.
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"),
]

Batch = tuple[Tensor, Tensor]
Fit = tuple[list[Batch], bool]  # with whether it ends a task


class Network(pl.LightningModule):
    """The plain loop's model, with the same names, as a user of Lightning writes it."""

    def __init__(self) -> None:
        super().__init__()
        for name, layer in small_model(torch.float32).named_children():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return x

    def training_step(self, batch: Batch, index: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adam(self.parameters())


class Batches:
    """The batches of a task, as a data loader that can be resumed where it was."""

    def __init__(self, task: int) -> None:
        self.batches, self.first, self.given = batches(task), 0, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        first, self.first = self.first, 0
        for position in range(first, len(self)):
            self.given = position + 1
            yield self.batches[position]

    def state_dict(self) -> dict[str, int]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.first = state["given"] % len(self)


class Recorder(pl.Callback):
    """Keeps the outcome at the end of each epoch, which is before the end of the task."""

    def __init__(self, synaptic: SynapticCallback) -> None:
        self.synaptic = synaptic

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.outcome = outcome_of(pl_module, self.synaptic.synapses)


def trainer(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    checkpointing = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    given = {"accelerator": "cpu", "max_epochs": 1, "enable_checkpointing": checkpointing, **quiet, **options}
    return pl.Trainer(callbacks=list(callbacks), **given)


def synaptic(**options: Any) -> SynapticCallback:
    return SynapticCallback(**{"c": C, "xi": XI, **options})


def train(network: Network, callback: SynapticCallback, tasks: range = range(TASKS), **options: Any) -> Outcome:
    """One fit for each task, each with its own trainer and optimizer."""
    recorder = Recorder(callback)
    for task in tasks:
        trainer(callback, recorder, **options).fit(network, Batches(task))
    return recorder.outcome


def train_plainly_afresh(fits: list[Fit] | None = None, *, epochs: int = 1, autocast: bool = False) -> Outcome:
    """The plain loop where each fit has an optimizer of its own; by default one for each task."""
    model = small_model(torch.float32)
    synapses = synapses_of(model, adam(model.parameters()))
    for its_batches, ends_task in fits or [(batches(task) * epochs, task + 1 < TASKS) for task in range(TASKS)]:
        optimizer = adam(model.parameters())
        synapses.attach(optimizer)
        for x, y in its_batches:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        if ends_task:
            synapses.consolidate()
    return outcome_of(model, synapses)


class EpochsAreTasks(Network):
    """One fit for all tasks, which ends them by hand and keeps its optimizer."""

    def __init__(self, callback: SynapticCallback) -> None:
        super().__init__()
        self.callback = [callback]

    def train_dataloader(self) -> Batches:
        return Batches(self.current_epoch)

    def on_train_epoch_end(self) -> None:
        if self.current_epoch + 1 < TASKS:
            self.callback[0].synapses.consolidate()


# The same numbers.


def test_one_fit_for_each_task_bit_for_bit() -> None:
    """Each task has a trainer and an Adam of its own; one callback for all."""
    assert_same(train(Network(), synaptic()), train_plainly_afresh())


@pytest.mark.parametrize(
    ("of_lightning", "of_plain"),
    [
        ({}, {}),
        ({"gradient_clip_val": 0.05}, {"clip": 0.05}),
        ({"accumulate_grad_batches": 3}, {"accumulate": 3}),
        ({"accumulate_grad_batches": 3, "gradient_clip_val": 0.05}, {"accumulate": 3, "clip": 0.05}),
    ],
    ids=["plain", "clipped", "accumulated", "both"],
)
def test_one_fit_for_all_tasks_with_clipping_and_accumulation_bit_for_bit(
    of_lightning: dict[str, Any], of_plain: dict[str, Any]
) -> None:
    """``boundary="manual"``, with ``gradient_clip_val`` and ``accumulate_grad_batches``, which act in the closure."""
    callback = synaptic(boundary="manual")
    network = EpochsAreTasks(callback)
    trainer(callback, max_epochs=TASKS, reload_dataloaders_every_n_epochs=1, **of_lightning).fit(network)
    assert_same(outcome_of(network, callback.synapses), train_plainly(**of_plain))


def test_bf16_mixed_precision_bit_for_bit() -> None:
    """``precision="bf16-mixed"`` against the plain loop under autocast."""
    assert_same(train(Network(), synaptic(), precision="bf16-mixed"), train_plainly_afresh(autocast=True))


class InterruptionError(Exception):
    pass


class InterruptedNetwork(Network):
    """Fails in the forward pass of one step, inside the optimizer's closure."""

    def __init__(self, at: int, error: BaseException) -> None:
        super().__init__()
        self.at, self.error = at, error

    def training_step(self, batch: Batch, index: int) -> Tensor:
        if self.global_step == self.at:
            raise self.error
        return super().training_step(batch, index)


@pytest.mark.parametrize("every", [STEPS, 5], ids=["end of an epoch", "middle of an epoch"])
@pytest.mark.parametrize("weights_only", [None, True])
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_resuming_in_the_middle_of_a_task_bit_for_bit(every: int, weights_only: bool | None, tmp_path: Path) -> None:
    """Interrupted in the second task of two epochs, and resumed by ``ckpt_path`` in fresh objects."""

    def saver() -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path, every_n_train_steps=every, save_top_k=-1, filename="{step}")

    network, callback = InterruptedNetwork(STEPS + 7, InterruptionError()), synaptic()
    network.at = -1
    train(network, callback, range(1), max_epochs=2)
    network.at = STEPS + 7
    with pytest.raises(InterruptionError):
        trainer(callback, saver(), max_epochs=2).fit(network, Batches(1))
    latest = max(tmp_path.iterdir(), key=lambda file: int(file.stem.removeprefix("step=")))
    assert latest.stem == f"step={(STEPS + 7) // every * every}"

    fresh, callback = Network(), synaptic()
    again = trainer(callback, saver(), max_epochs=2)
    again.fit(fresh, Batches(1), ckpt_path=latest, weights_only=weights_only)
    assert callback.synapses.tasks == 2
    assert_same(train(fresh, callback, range(2, 3), max_epochs=2), train_plainly_afresh(epochs=2))


def test_resuming_with_the_same_callback_bit_for_bit(tmp_path: Path) -> None:
    """As in a notebook: a fit was interrupted, and is resumed by ``ckpt_path`` with a new network, or the same one."""
    for anew in (False, True):
        network, callback = InterruptedNetwork(-1, InterruptionError()), synaptic()
        train(network, callback, range(1), max_epochs=2)
        saver = ModelCheckpoint(tmp_path / str(anew), every_n_train_steps=5, save_top_k=1)
        network.at = 7
        with pytest.raises(InterruptionError):
            trainer(callback, saver, max_epochs=2).fit(network, Batches(1))
        resumed = Network() if anew else network
        network.at = -1
        saver = ModelCheckpoint(tmp_path / str(anew), every_n_train_steps=5, save_top_k=0)
        latest = next((tmp_path / str(anew)).iterdir())
        trainer(callback, saver, max_epochs=2).fit(resumed, Batches(1), ckpt_path=latest)
        assert_same(train(resumed, callback, range(2, 3), max_epochs=2), train_plainly_afresh(epochs=2))


def test_going_on_in_another_process_bit_for_bit(tmp_path: Path) -> None:
    """``callback.synapses.save(path)`` after two tasks; the third with ``start=path`` and the saved weights."""
    network, callback = Network(), synaptic()
    train(network, callback, range(2))
    callback.synapses.save(tmp_path / "two.safetensors")
    torch.save(network.state_dict(), tmp_path / "two.pt")

    network, callback = Network(), synaptic(start=tmp_path / "two.safetensors")
    network.load_state_dict(torch.load(tmp_path / "two.pt"))
    assert_same(train(network, callback, range(2, 3)), train_plainly_afresh())

    with pytest.raises(si.SynapseError, match="load them first"):
        train(Network(), synaptic(start=tmp_path / "two.safetensors"))


class ValidatedNetwork(Network):
    def validation_step(self, batch: Batch, index: int) -> None:
        self.log("loss", F.cross_entropy(self(batch[0]), batch[1]), batch_size=len(batch[0]))


def test_validation_leaves_no_trace_bit_for_bit() -> None:
    """The sanity check, validation in each epoch, and ``trainer.validate`` before and after it."""
    network, callback = ValidatedNetwork(), synaptic()
    recorder = Recorder(callback)
    for task in range(TASKS):
        one = trainer(callback, recorder, val_check_interval=5)
        one.validate(network, Batches(0), verbose=False)
        one.fit(network, Batches(task), Batches(0))
        one.validate(network, Batches(0), verbose=False)
    assert_same(recorder.outcome, train_plainly_afresh())


class SearchInEachEpoch(LearningRateFinder):
    """As Lightning's documentation has it: not only where the fit starts."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch > 0:
            self.lr_find(trainer, pl_module)


def test_the_search_for_a_learning_rate_leaves_no_trace_bit_for_bit(tmp_path: Path) -> None:
    """The trial steps of ``LearningRateFinder`` are undone, and are in no path: before each task, and in its middle."""
    network, callback = Network(), synaptic()
    recorder, objects = Recorder(callback), set()
    for task in range(TASKS):
        finder = SearchInEachEpoch(num_training_steps=4, update_attr=False)
        trainer(finder, callback, recorder, default_root_dir=tmp_path, max_epochs=2).fit(network, Batches(task))
        objects.add(id(callback.synapses))
    assert len(objects) == 1
    assert_same(recorder.outcome, train_plainly_afresh(epochs=2))


class TwoOptimizers(Network):
    """Manual optimization: one optimizer for the first layer, one for the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def parts(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        parameters = list(self.parameters())
        return parameters[:2], parameters[2:]

    def configure_optimizers(self) -> Any:
        return [adam(part) for part in self.parts()]

    def training_step(self, batch: Batch, index: int) -> Tensor:
        optimizers = self.optimizers()
        assert isinstance(optimizers, list)
        first, rest = optimizers
        first.zero_grad()
        rest.zero_grad()
        loss = super().training_step(batch, index)
        self.manual_backward(loss)
        first.step()
        rest.step()
        return loss


def test_synapses_in_one_of_two_optimizers_bit_for_bit() -> None:
    """Manual optimization, where ``protect`` chooses parameters of one optimizer."""
    network, callback = TwoOptimizers(), synaptic(protect=lambda name: name.startswith("0."))
    found = train(network, callback)

    plain = TwoOptimizers()
    named = dict(list(plain.named_parameters())[:2])
    synapses = si.SynapticIntelligence(named.items(), adam(named.values()), c=C, xi=XI)
    for task in range(TASKS):
        first, rest = map(adam, plain.parts())
        synapses.attach(first)
        for x, y in batches(task):
            plain.zero_grad()
            F.cross_entropy(plain(x), y).backward()
            first.step()
            rest.step()
        if task + 1 < TASKS:
            synapses.consolidate()
    assert sorted(found.omega) == ["0.bias", "0.weight"]
    assert_same(found, outcome_of(plain, synapses))


def test_an_estimator_that_needs_data_bit_for_bit() -> None:
    """Elastic weight consolidation, with ``boundary="manual"`` and ``consolidate(data)`` after the fit."""

    def fisher(model: nn.Module) -> si.Fisher:
        return si.Fisher(model, F.cross_entropy, kind="exact")

    network, plain = Network(), small_model(torch.float32)
    callback = SynapticCallback(c=C, importance=fisher(network), boundary="manual")
    optimizer = adam(plain.parameters())
    synapses = si.Consolidator(plain.named_parameters(), optimizer, fisher(plain), c=C)
    for task in range(2):
        trainer(callback).fit(network, Batches(task))
        callback.synapses.consolidate(batches(task))
        synapses.attach(optimizer := adam(plain.parameters()))
        for x, y in batches(task):
            optimizer.zero_grad()
            F.cross_entropy(plain(x), y).backward()
            optimizer.step()
        synapses.consolidate(batches(task))
    assert any(bool(omega.any()) for omega in synapses.omega.values())
    assert same(dict(callback.synapses.omega), dict(synapses.omega))
    assert same(dict(callback.synapses.anchor), dict(synapses.anchor))


# When a task ends.


def steps(callback: SynapticCallback) -> int:
    """Optimizer steps of the task that is under way."""
    return int(callback.state_dict()["synapses"]["steps"])


@pytest.mark.parametrize("error", [InterruptionError(), KeyboardInterrupt()], ids=["exception", "ctrl-c"])
def test_an_interrupted_fit_ends_no_task_and_the_next_goes_on_bit_for_bit(error: BaseException) -> None:
    """An exception or Ctrl-C in a step: the task and its path go on with the next ``fit()``."""
    network, callback = InterruptedNetwork(-1, error), synaptic()
    train(network, callback, range(1))
    network.at, handler = 7, signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(InterruptionError if isinstance(error, Exception) else SystemExit):
            trainer(callback).fit(network, Batches(1))
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning ignores further ones
    assert (callback.synapses.tasks, steps(callback)) == (1, 7)
    network.at = -1
    found = train(network, callback, range(1, 2))
    assert_same(found, train_plainly_afresh([(batches(0), True), (batches(1)[:7], False), (batches(1), False)]))
    assert callback.synapses.tasks == 2


class StoppingNetwork(Network):
    def on_train_batch_end(self, outputs: Any, batch: Batch, index: int) -> None:
        self.trainer.should_stop = True


@pytest.mark.parametrize(
    ("network", "limit"),
    [(Network, {"max_steps": 1}), (Network, {"max_time": timedelta(microseconds=1)}), (StoppingNetwork, {})],
    ids=["max_steps", "max_time", "early stopping"],
)
def test_a_fit_that_a_limit_ends_is_a_task(network: type[Network], limit: dict[str, Any]) -> None:
    """``max_steps``, ``max_time`` and early stopping end a fit as its last epoch does."""
    callback = synaptic()
    one = trainer(callback, **limit)
    one.fit(network(), Batches(0))
    assert (one.global_step, callback.synapses.tasks, steps(callback)) == (1, 1, 0)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_fit_that_is_resumed_after_its_last_step_ends_its_task_once(tmp_path: Path) -> None:
    """There is nothing left to train; it was saved before the task ended, or after."""
    network, callback, saver = Network(), synaptic(), ModelCheckpoint(tmp_path, filename="before")
    one = trainer(callback, saver)
    one.fit(network, Batches(0))
    one.save_checkpoint(tmp_path / "after.ckpt")
    for file in ("before.ckpt", "after.ckpt"):
        resumed = synaptic()
        trainer(resumed, saver).fit(Network(), Batches(0), ckpt_path=tmp_path / file)
        assert resumed.synapses.tasks == 1
        assert same(dict(resumed.synapses.omega), dict(callback.synapses.omega))


def test_a_fast_dev_run_is_no_task() -> None:
    """``fast_dev_run`` trains a step, and the task that follows has it in its path."""
    network, callback = Network(), synaptic()
    trainer(callback, fast_dev_run=True).fit(network, Batches(0))
    assert (callback.synapses.tasks, steps(callback)) == (0, 1)
    trainer(callback).fit(network, Batches(0))
    assert callback.synapses.tasks == 1


# What is refused, or warned of.


class TestedNetwork(Network):
    __test__ = False

    def test_step(self, batch: Batch, index: int) -> None:
        self(batch[0])


def test_weights_that_are_loaded_to_be_tested_are_warned_of(tmp_path: Path) -> None:
    """``trainer.test(ckpt_path=...)`` leaves the synapses as they are; the next fit starts from other weights."""
    network, callback = TestedNetwork(), synaptic()
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=5, save_top_k=1, filename="five")
    one = trainer(callback, saver)
    one.fit(network, Batches(0))
    before = callback.synapses.state_dict()
    one.test(network, Batches(0), ckpt_path=saver.best_model_path, verbose=False)
    assert same(callback.synapses.state_dict(), before)
    with pytest.warns(si.SynapseWarning, match="weights were changed between optimizer steps"):
        trainer(callback).fit(network, Batches(1))


@pytest.mark.parametrize("interrupted", [False, True])
def test_another_network_is_warned_of(interrupted: bool) -> None:
    """A callback that comes from other weights; also where their task was interrupted."""
    callback = synaptic()
    network = InterruptedNetwork(7, InterruptionError())
    if interrupted:
        with pytest.raises(InterruptionError):
            trainer(callback).fit(network, Batches(0))
    else:
        train(Network(), callback, range(1))
    with pytest.warns(si.SynapseWarning, match="have other values than those in whose place they are"):
        trainer(callback).fit(Network(), Batches(1))


def test_the_same_weights_in_new_objects_are_not_warned_of() -> None:
    """A network that is made anew for each task and loaded, as by ``load_from_checkpoint``."""
    network, callback = Network(), synaptic()
    train(network, callback, range(1))
    new = Network()
    new.load_state_dict(network.state_dict())
    train(new, callback, range(1, 2))
    assert callback.synapses.tasks == 2


def test_a_checkpoint_without_synapses_is_refused(tmp_path: Path) -> None:
    """Half a task would be missing from the path."""
    one = trainer(max_epochs=2)
    one.fit(Network(), Batches(0))
    one.save_checkpoint(tmp_path / "bare.ckpt")
    with pytest.raises(si.SynapseError, match="no synapses to resume"):
        trainer(synaptic(), max_epochs=3).fit(Network(), Batches(0), ckpt_path=tmp_path / "bare.ckpt")


def test_parameters_of_several_optimizers_are_refused() -> None:
    """Synapses watch the steps of one."""
    with pytest.raises(si.SynapseError, match="in 2 optimizers"):
        trainer(synaptic()).fit(TwoOptimizers(), Batches(0))
    with pytest.raises(si.SynapseError, match="in 0 optimizers"):
        trainer(synaptic(protect=lambda name: False)).fit(Network(), Batches(0))


def test_strategies_that_shard_are_refused() -> None:
    """FSDP, model parallelism and DeepSpeed: Lightning would save the synapses of one rank for all."""
    one = trainer(strategy=ModelParallelStrategy(), devices=1)
    with pytest.raises(si.SynapseError, match="shards parameters"):
        synaptic().setup(one, Network(), "fit")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_strategies_whose_processes_end_with_the_fit_are_refused() -> None:
    """``ddp_spawn``, ``ddp_fork`` and ``ddp_notebook`` bring back weights alone."""
    with pytest.raises(Exception, match="processes end with fit"):
        trainer(synaptic(), strategy="ddp_fork", devices=1).fit(Network(), Batches(0))


def test_two_callbacks_in_one_trainer_are_refused() -> None:
    """By Lightning itself, which could not tell their states apart."""
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `SynapticCallback`"):
        trainer(synaptic(), synaptic())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"xi": None}, "one of them"),
        ({"importance": si.PathIntegral(XI)}, "one of them"),
        ({"boundary": "epoch"}, "boundary must be 'fit' or 'manual', not 'epoch'"),
        ({"xi": -1.0}, "xi must be"),
        ({"xi": None, "importance": si.Fisher(nn.Linear(1, 1), F.mse_loss, kind="empirical")}, "boundary='manual'"),
    ],
)
def test_arguments_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    """Among them an estimator that needs data, which the end of a fit does not have."""
    with pytest.raises(ValueError, match=message):
        synaptic(**options)


def test_there_are_no_synapses_before_the_first_fit() -> None:
    """They are made of the parameters that are trained, where they are trained."""
    with pytest.raises(si.SynapseError, match="no synapses yet"):
        synaptic().synapses  # noqa: B018


def test_without_lightning_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """And says that ``pytorch_lightning`` is not enough."""
    assert lightning.__spec__ is not None
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    spec = importlib.util.spec_from_file_location("afresh", lightning.__file__)
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ImportError, match=r"pytorch_lightning will not do: pip install \"synaptic-intelligence\[light"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_the_example_keeps_the_first_task_better_with_synapses(tmp_path: Path) -> None:
    """``examples/lightning_callback.py``."""
    with_synapses, without = first_task_accuracies(run_example("lightning_callback.py", tmp_path))
    assert with_synapses > without + 0.1


def test_two_ranks_of_ddp_equal_one_process_within_1e_12(two_ranks: Ranks) -> None:
    """``strategy="ddp"``, each rank with half of each batch."""
    first, second = two_ranks.run(fit_by_lightning)
    assert_same(first, second)
    assert_same(first, train_plainly(dtype=torch.float64), weights=1e-12, importance=1e-12)
