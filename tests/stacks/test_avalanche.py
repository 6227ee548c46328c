"""A strategy of Avalanche with the plugin, against the plain loop and against Avalanche's own plugin."""

from __future__ import annotations

import doctest
import importlib
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

import dill
import pytest
import torch
import torch.nn.functional as F
from oracle import small_model
from stacks import stand_ins
from stacks.example import FOLDER, first_task_accuracies
from stacks.plain import (
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
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import synaptic_intelligence as si

with stand_ins.stand_ins():
    from avalanche.benchmarks import (
        benchmark_from_datasets,
        split_online_stream,
        task_incremental_benchmark,
        with_classes_timeline,
    )
    from avalanche.benchmarks.utils import AvalancheDataset, DataAttribute
    from avalanche.checkpointing import maybe_load_checkpoint, save_checkpoint
    from avalanche.logging import BaseLogger
    from avalanche.models import IncrementalClassifier, MultiHeadClassifier, MultiTaskModule
    from avalanche.models.dynamic_modules import avalanche_model_adaptation
    from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin, SynapticIntelligencePlugin
    from avalanche.training.supervised import MER, Naive

    import synaptic_intelligence.integrations.avalanche as integration
    from synaptic_intelligence.integrations.avalanche import SynapticPlugin

pytestmark = [
    pytest.mark.stack("Avalanche"),
    # Avalanche's own plugin gives a tensor to np.square.
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning"),
    # torch.optim hides the modules of its optimizers, and dill says so before it takes the class by its name.
    pytest.mark.filterwarnings("ignore:Cannot locate reference to <class 'torch.optim"),
    pytest.mark.filterwarnings("ignore:No loggers specified"),
]


@final
class Watch(SupervisedPlugin):  # type: ignore[misc]  # Avalanche ships no types
    """Keeps what an epoch has left, before its task is consolidated."""

    def __init__(self, plugin: SynapticPlugin) -> None:
        super().__init__()
        self.plugin = plugin
        self.outcome: Outcome | None = None

    def after_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.outcome = outcome_of(strategy.model, self.plugin.synapses)


def benchmark(*, repeated: int = 1, classes_apart: bool = False) -> Any:
    """The batches of the plain loop as a benchmark; ``repeated`` times in a row, or each task with its own classes."""
    datasets = []
    for task in range(TASKS):
        x, y = (torch.cat(parts) for parts in zip(*batches(task) * repeated, strict=True))
        y = y + 3 * task if classes_apart else y
        datasets.append(AvalancheDataset([TensorDataset(x, y)], data_attributes=[DataAttribute(y.tolist(), "targets")]))
    return benchmark_from_datasets(train=datasets)


def strategy_of(*plugins: Any, model: nn.Module | None = None, kind: Callable[..., Any] = Naive, **options: Any) -> Any:
    model = small_model(torch.float32) if model is None else model
    return kind(
        model=model,
        optimizer=adam(model.parameters()),
        train_mb_size=16,
        plugins=list(plugins),
        evaluator=EvaluationPlugin(loggers=[BaseLogger()]),
        **options,
    )


def plugin_and_watch(**options: Any) -> tuple[SynapticPlugin, Watch]:
    plugin = SynapticPlugin(c=C, xi=XI, **options)
    return plugin, Watch(plugin)


def outcome(watch: Watch) -> Outcome:
    assert watch.outcome is not None
    return watch.outcome


def test_three_experiences_equal_the_plain_loop_bit_for_bit() -> None:
    """Each experience is a task; the strategy keeps its optimizer."""
    plugin, watch = plugin_and_watch()
    strategy_of(plugin, watch).train(benchmark().train_stream, shuffle=False)
    assert_same(outcome(watch), train_plainly())
    assert plugin.synapses.tasks == TASKS


def test_beside_avalanches_own_plugin_bit_for_bit() -> None:
    """Avalanche's own plugin has importance zero on a CPU, and trains as Naive does; ours trains as the plain loop.

    Its synaptic_intelligence.py keeps weights by ``target[name].data = param.detach().cpu().flatten()`` (line 215 of
    avalanche-lib 0.6.0, in ``extract_weights``). On a CPU none of the three copies, so the weights before a step, those
    after it and the anchor are all the live parameter, and every difference of two of them is zero.
    """
    naive = strategy_of()
    naive.train(benchmark().train_stream, shuffle=False)
    theirs = SynapticIntelligencePlugin(si_lambda=1e6, eps=XI)
    with_theirs = strategy_of(theirs)
    with_theirs.train(benchmark().train_stream, shuffle=False)
    ours, watch = plugin_and_watch()
    with_ours = strategy_of(ours, watch)
    with_ours.train(benchmark().train_stream, shuffle=False)

    names = [name for name, _ in naive.model.named_parameters()]
    trajectories, importance = theirs.syn_data["cum_trajectory"], theirs.ewc_data[1]
    assert list(importance) == names
    assert not any(bool(trajectories[name].data.any() or importance[name].data.any()) for name in names)
    assert all(map(torch.equal, with_theirs.model.parameters(), naive.model.parameters()))

    assert all(bool(ours.synapses.omega[name].any()) for name in names)
    assert not any(map(torch.equal, with_ours.model.parameters(), naive.model.parameters()))
    assert_same(outcome(watch), train_plainly())


@final
class _MadeLate(Naive):  # type: ignore[misc]
    """Makes its optimizer after the plugins have seen an experience begin, as Avalanche's LearningToPrompt does."""

    def _before_training_exp(self, **kwargs: Any) -> None:
        super()._before_training_exp(**kwargs)
        self.optimizer = adam(self.model.parameters())


def train_plainly_with_fresh_optimizers() -> Outcome:
    model = small_model(torch.float32)
    synapses: si.Consolidator | None = None
    for task in range(TASKS):
        optimizer = adam(model.parameters())
        if synapses is None:
            synapses = synapses_of(model, optimizer)
        else:
            synapses.consolidate()
            synapses.attach(optimizer)
        for x, y in batches(task):
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert synapses is not None
    return outcome_of(model, synapses)


@pytest.mark.parametrize("how", ["given anew", "made late", "state reset"])
def test_a_fresh_optimizer_for_each_experience_is_followed_bit_for_bit(how: str) -> None:
    """Between experiences, by a strategy that makes its own, or with reset_optimizer_state=True."""
    plugin, watch = plugin_and_watch()
    strategy = strategy_of(plugin, watch, kind=_MadeLate if how == "made late" else Naive)
    for experience in benchmark().train_stream:
        if how == "given anew":
            strategy.optimizer = adam(strategy.model.parameters())
        strategy.train(experience, shuffle=False, reset_optimizer_state=how == "state reset")
    assert_same(outcome(watch), train_plainly_with_fresh_optimizers())


def test_several_epochs_and_evaluation_between_them_bit_for_bit() -> None:
    """Two epochs for each experience, and the stream evaluated after each of them."""
    plugin, watch = plugin_and_watch()
    strategy_of(plugin, watch, train_epochs=2, eval_every=1).train(benchmark().train_stream, shuffle=False)
    assert_same(outcome(watch), train_plainly(of=lambda task: batches(task) * 2))


@final
class Decay(SupervisedPlugin):  # type: ignore[misc]
    """Adds a term to the loss, as many plugins of Avalanche do."""

    def before_backward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        strategy.loss += decay(strategy.model)


def decay(model: nn.Module) -> Tensor:
    return 0.1 * torch.stack([p.square().sum() for p in model.parameters()]).sum()


def test_what_another_plugin_adds_to_the_loss_counts_bit_for_bit() -> None:
    """It is part of the task's loss, so its gradient is part of the path."""
    plugin, watch = plugin_and_watch()
    strategy_of(Decay(), plugin, watch).train(benchmark().train_stream[:2], shuffle=False)

    model = small_model(torch.float32)
    optimizer = adam(model.parameters())
    synapses = synapses_of(model, optimizer)
    for task in range(2):
        if task:
            synapses.consolidate()
        for x, y in batches(task):
            (F.cross_entropy(model(x), y) + decay(model)).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert_same(outcome(watch), outcome_of(model, synapses))


@pytest.mark.parametrize("size", [48, 80], ids=["four equal parts", "three parts"])
def test_an_online_stream_with_task_boundaries_bit_for_bit(size: int) -> None:
    """The sub-experiences of one experience are one task."""
    plugin, watch = plugin_and_watch()
    stream = split_online_stream(benchmark().train_stream, size, shuffle=False, access_task_boundaries=True)
    strategy_of(plugin, watch).train(stream, shuffle=False)
    assert_same(outcome(watch), train_plainly())
    assert plugin.synapses.tasks == TASKS


@pytest.mark.parametrize("online", [False, True], ids=["whole", "online"])
def test_another_estimator_is_given_the_experience_bit_for_bit(online: bool) -> None:
    """Fisher gets all data of the experience that ends, and leaves the random numbers of training alone."""

    def fisher(model: nn.Module) -> si.Fisher:
        return si.Fisher(model, F.cross_entropy, kind="exact")

    model, stream = small_model(torch.float32), benchmark().train_stream[:2]
    plugin = SynapticPlugin(c=C, importance=fisher(model))
    strategy = strategy_of(plugin, model=model)
    parts = split_online_stream(stream, 48, shuffle=False, access_task_boundaries=True)
    strategy.train(parts if online else stream, shuffle=False)

    plain = small_model(torch.float32)
    optimizer = adam(plain.parameters())
    synapses = si.Consolidator(plain.named_parameters(), optimizer, fisher(plain), c=C)
    for task in range(2):
        for x, y in batches(task):
            F.cross_entropy(plain(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
        synapses.consolidate(batches(task))
    assert all(map(torch.equal, model.parameters(), plain.parameters()))
    assert all(bool(omega.any()) for omega in synapses.omega.values())
    assert all(torch.equal(plugin.synapses.omega[name], omega) for name, omega in synapses.omega.items())

    strategy.experience, drawn = stream[1], torch.get_rng_state()
    plugin.after_training_exp(strategy)
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_strategy_goes_on_from_a_checkpoint_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Avalanche's save_checkpoint holds the synapses; maybe_load_checkpoint brings them back, in strategy.plugins.

    Without ``byref`` dill writes the classes of torch's optimizers down, and fails, with the plugin or without it.
    """
    monkeypatch.setitem(dill.settings, "byref", True)
    stream, checkpoint = benchmark().train_stream, tmp_path / "checkpoint"
    first = SynapticPlugin(c=0.0, xi=XI, protect=lambda name: True)
    strategy = strategy_of(first)
    strategy.train(stream[0], shuffle=False)
    first.synapses.c = C
    strategy.train(stream[1], shuffle=False)
    save_checkpoint(strategy, checkpoint)

    for _ in range(2):  # the second time before there are synapses once more
        fresh = strategy_of(SynapticPlugin(c=0.0, xi=1.0), model=small_model(torch.float32, seed=1))
        strategy, done = maybe_load_checkpoint(fresh, checkpoint)
        save_checkpoint(strategy, checkpoint)
    plugin = next(each for each in strategy.plugins if isinstance(each, SynapticPlugin))
    watch = Watch(plugin)
    strategy.plugins.append(watch)
    strategy.train(stream[done], shuffle=False)
    assert_same(outcome(watch), train_plainly())
    assert plugin.synapses.tasks == TASKS


def test_a_pickled_plugin_goes_on_in_a_new_strategy_bit_for_bit() -> None:
    """Pickled with the weights, where each experience has a fresh optimizer, as a new strategy's first one has."""
    stream, first = benchmark().train_stream, SynapticPlugin(c=C, xi=XI)
    strategy = strategy_of(first)
    strategy.train(stream[0], shuffle=False)
    strategy.train(stream[1], shuffle=False, reset_optimizer_state=True)
    weights, plugin = pickle.loads(pickle.dumps((strategy.model.state_dict(), first)))

    model, watch = small_model(torch.float32, seed=1), Watch(plugin)
    model.load_state_dict(weights)
    strategy_of(plugin, watch, model=model).train(stream[2], shuffle=False)
    assert_same(outcome(watch), train_plainly_with_fresh_optimizers())


@final
class Heads(MultiTaskModule):  # type: ignore[misc]
    """A shared layer, and a head for each task."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(6, 8)
        self.classifier = MultiHeadClassifier(8, initial_out_features=3, masking=False)

    def forward(self, x: Tensor, task_labels: Any) -> Any:
        return self.classifier(self.shared(x).tanh(), task_labels)


def shared_alone(name: str) -> bool:
    return "classifier" not in name


def test_new_heads_that_are_left_out_bit_for_bit() -> None:
    """A multi-head model gets a head for each experience; heads without synapses stay as their own task left them."""
    stream = with_classes_timeline(task_incremental_benchmark(benchmark())).train_stream
    plugin, watch = plugin_and_watch(protect=shared_alone)
    torch.manual_seed(0)
    strategy = strategy_of(plugin, watch, model=Heads())
    heads: dict[str, Tensor] = {}
    for experience in stream:
        torch.manual_seed(experience.current_experience)  # the first thing drawn is the new head
        strategy.train(experience, shuffle=False)
        weights = dict(strategy.model.named_parameters())
        assert all(torch.equal(weights[name], head) for name, head in heads.items())
        heads = {name: p.detach().clone() for name, p in weights.items() if not shared_alone(name)}
    assert len(heads) == 2 * TASKS

    torch.manual_seed(0)
    model = Heads()
    optimizer = adam(model.parameters())
    shared = [(name, p) for name, p in model.named_parameters() if shared_alone(name)]
    synapses = si.SynapticIntelligence(shared, optimizer, c=C, xi=XI)
    for experience in stream:
        task = experience.current_experience
        torch.manual_seed(task)
        avalanche_model_adaptation(model, experience)
        if task:
            synapses.consolidate()
            optimizer.add_param_group({"params": model.classifier.classifiers[str(task)].parameters()})
        for x, y in batches(task):
            F.cross_entropy(model(x, task), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert_same(outcome(watch), outcome_of(model, synapses))


def test_heads_that_are_all_there_before_training_are_protected() -> None:
    """A multi-head model that was adapted to the whole stream beforehand has synapses in all heads."""
    stream = with_classes_timeline(task_incremental_benchmark(benchmark())).train_stream
    model = Heads()
    for experience in stream:
        avalanche_model_adaptation(model, experience)
    plugin = SynapticPlugin(c=C, xi=XI)
    strategy_of(plugin, model=model).train(stream, shuffle=False)
    assert set(plugin.synapses.omega) == {name for name, _ in model.named_parameters()}
    assert all(bool(omega.any()) for omega in plugin.synapses.omega.values())


def test_new_heads_with_synapses_are_refused() -> None:
    """Synapses cannot be added once training has begun: an experience that brings protected parameters is refused."""
    stream = with_classes_timeline(task_incremental_benchmark(benchmark())).train_stream
    strategy = strategy_of(SynapticPlugin(c=C, xi=XI), model=Heads())
    strategy.train(stream[0])
    message = r"'classifier\.classifiers\.1\.classifier\.weight'.* are new, or have grown, .*protect="
    with pytest.raises(si.SynapseError, match=message):
        strategy.train(stream[1])


def growing() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), IncrementalClassifier(8, initial_out_features=3))


def test_a_classifier_that_grows_is_refused() -> None:
    """IncrementalClassifier puts a larger weight in the place of the one that has synapses."""
    stream = with_classes_timeline(benchmark(classes_apart=True)).train_stream
    strategy = strategy_of(SynapticPlugin(c=C, xi=XI), model=growing())
    strategy.train(stream[0])
    message = r"\['2\.classifier\.weight', '2\.classifier\.bias'\] are new, or have grown, .*protect="
    with pytest.raises(si.SynapseError, match=message):
        strategy.train(stream[1])


def test_a_classifier_that_grows_can_be_left_out() -> None:
    """With protect the classifier grows without synapses, and the layers before it have importance."""
    stream = with_classes_timeline(benchmark(classes_apart=True)).train_stream
    plugin = SynapticPlugin(c=C, xi=XI, protect=shared_alone)
    strategy = strategy_of(plugin, model=growing())
    strategy.train(stream, shuffle=False)
    assert strategy.model[2].classifier.out_features == 3 * TASKS
    assert {name: bool(omega.any()) for name, omega in plugin.synapses.omega.items()} == {
        "0.weight": True,
        "0.bias": True,
    }


def test_an_online_stream_without_task_boundaries_is_refused() -> None:
    """Such a stream does not tell where a task ends."""
    stream = split_online_stream(benchmark().train_stream, experience_size=48)
    with pytest.raises(si.SynapseError, match="access_task_boundaries=True"):
        strategy_of(SynapticPlugin(c=C, xi=XI)).train(stream)


def test_meta_learning_is_refused() -> None:
    """MER and its like move weights outside of optimizer steps, which no path sees."""
    with pytest.raises(si.SynapseError, match="MER moves weights outside of optimizer steps"):
        strategy_of(SynapticPlugin(c=C, xi=XI), kind=MER).train(benchmark().train_stream)


def test_wrong_arguments_are_refused() -> None:
    """Neither or both of xi and importance, and a protect that is true of nothing."""
    for xi, importance in ((None, None), (XI, si.PathIntegral(XI))):
        with pytest.raises(ValueError, match=r"give xi, .* or importance"):
            SynapticPlugin(c=C, xi=xi, importance=importance)
    with pytest.raises(ValueError, match="xi must be positive"):
        SynapticPlugin(c=C, xi=0.0)
    plugin = SynapticPlugin(c=C, xi=XI, protect=lambda name: False)
    with pytest.raises(si.SynapseError, match="no synapses yet"):
        _ = plugin.synapses
    with pytest.raises(ValueError, match="protect is true of no parameter"):
        strategy_of(plugin).train(benchmark().train_stream)


def test_without_avalanche_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Avalanche, or what it imports, is missing, the ImportError says what to install."""
    monkeypatch.setitem(sys.modules, "avalanche.core", None)
    monkeypatch.delitem(sys.modules, integration.__name__)
    with pytest.raises(ImportError, match=re.escape('pip install "synaptic-intelligence[avalanche]"')):
        importlib.import_module(integration.__name__)


def test_the_example_of_its_documentation_runs() -> None:
    """The example in the docstring of SynapticPlugin."""
    tried = doctest.testmod(integration, optionflags=doctest.ELLIPSIS, raise_on_error=True)
    assert tried.attempted > 5


def test_the_example_keeps_the_first_task(tmp_path: Path) -> None:
    """The script in examples/ keeps permuted MNIST's first task better with synapses than without."""
    command = [sys.executable, stand_ins.__file__, str(FOLDER / "avalanche_strategy.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kept, forgotten = first_task_accuracies(done.stdout)
    assert kept > forgotten + 0.1
    assert list(tmp_path.iterdir()) == []


def test_packages_that_it_does_not_use_are_stand_ins() -> None:
    """What Avalanche imports and these tests do not use, such as torchvision, are stand-ins where it is missing."""
    assert not any(isinstance(module, stand_ins.StandIn) for module in sys.modules.values())
    for name in ("torchvision", "wandb"):
        found = find_spec(name)
        assert found is None or found.origin is not None  # none, or the real one
