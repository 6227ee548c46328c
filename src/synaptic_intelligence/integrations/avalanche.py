"""Synapses in any strategy of Avalanche: one plugin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader

import synaptic_intelligence as si

try:
    from avalanche.benchmarks import OnlineCLExperience
    from avalanche.core import SupervisedPlugin
    from avalanche.training.templates import SupervisedMetaLearningTemplate
except ImportError as error:
    raise ImportError(
        'strategies need avalanche-lib, and all that it imports: pip install "synaptic-intelligence[avalanche]"'
    ) from error


@final
class SynapticPlugin(SupervisedPlugin):  # type: ignore[misc]  # Avalanche ships no types
    """Synapses for a strategy: they watch its optimizer, and an experience that ends is a task that ends.

    They are made when the first epoch begins, for only then are model and optimizer what they will be, and put on those
    of each further epoch, so that an optimizer that was made anew is followed. Of an online stream the sub-experiences
    of one experience are one task. A checkpoint of the strategy, and a pickled plugin, hold the synapses.

    Args:
        c: strength of the pull, without unit.
        xi: damping of the path integral, in theta^2.
        importance: another estimator in place of ``xi``; if it needs data, it is given the experience's, transformed as
            for evaluation.
        omega_dtype: as for :class:`~synaptic_intelligence.Consolidator`.
        protect: which parameters get synapses, by name; None: all that are trained.

    Raises:
        ValueError: neither or both of ``xi`` and ``importance``; when training begins, ``protect`` that is true of
            nothing, or what :class:`~synaptic_intelligence.Consolidator` refuses.
        SynapseError: when an epoch begins, protected parameters that are new or have grown, an online stream without
            task boundaries, or meta-learning.

    What other plugins add to ``strategy.loss``, or do to gradients, the path takes as part of the task.

    Example:
        >>> import torch
        >>> from avalanche.benchmarks import benchmark_from_datasets
        >>> from avalanche.benchmarks.utils import AvalancheDataset
        >>> from avalanche.training.supervised import Naive
        >>> tasks = [torch.utils.data.TensorDataset(torch.randn(8, 4), torch.randint(2, (8,))) for _ in range(2)]
        >>> benchmark = benchmark_from_datasets(train=[AvalancheDataset([task]) for task in tasks])
        >>> model, plugin = torch.nn.Linear(4, 2), SynapticPlugin(c=0.1, xi=0.1)
        >>> optimizer = torch.optim.Adam(model.parameters())
        >>> strategy = Naive(model=model, optimizer=optimizer, plugins=[plugin], evaluator=None)
        >>> _ = strategy.train(benchmark.train_stream)
        >>> plugin.synapses.tasks, sorted(plugin.synapses.omega)
        (2, ['bias', 'weight'])
    """

    def __init__(
        self,
        *,
        c: float | Tensor,
        xi: float | None = None,
        importance: si.Importance | None = None,
        omega_dtype: torch.dtype | None = None,
        protect: Callable[[str], bool] | None = None,
    ) -> None:
        super().__init__()
        self._importance = si.importance_of(xi, importance)
        self._c, self._omega_dtype, self._protect = c, omega_dtype, protect
        self._synapses: si.Consolidator | None = None
        self._loaded: dict[str, Any] | None = None  # what a checkpoint held, until there are synapses again
        self._shapes: dict[str, torch.Size] = {}  # of the parameters that training began with
        self._parts = 0  # of an experience in an online stream

    @property
    def synapses(self) -> si.Consolidator:
        """The synapses; there are none before training begins."""
        if self._synapses is None:
            raise si.SynapseError("there are no synapses yet: they are made when the first epoch of training begins")
        return self._synapses

    def __getstate__(self) -> dict[str, Any]:
        """Return what a checkpoint of the strategy holds: settings, and the state of the synapses in their place."""
        state = {**vars(self), "_synapses": None}
        if self._synapses is not None:
            state |= {"_loaded": self._synapses.state_dict(), "_c": self._synapses.c}
        return state

    def before_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Make the synapses, or put them on what optimizer and model are by now."""
        if isinstance(strategy, SupervisedMetaLearningTemplate):
            raise si.SynapseError(
                f"{type(strategy).__name__} moves weights outside of optimizer steps too, which no path would see"
            )
        if isinstance(strategy.experience, OnlineCLExperience) and not strategy.experience.access_task_boundaries:
            raise si.SynapseError(
                "this online stream does not tell where a task ends, and synapses must know: "
                "split_online_stream(..., access_task_boundaries=True)"
            )
        own = strategy.model.named_parameters()
        named = {name: p for name, p in own if self._protect is None or self._protect(name)}
        if not named:
            raise ValueError("protect is true of no parameter: it is asked with names of model.named_parameters()")
        self._shapes = self._shapes or {name: p.shape for name, p in named.items()}
        try:
            self._put(named, strategy.optimizer)
        except (si.SynapseError, ValueError) as reason:
            grown = [name for name, p in named.items() if self._shapes.get(name) != p.shape]
            if not grown:
                raise
            raise si.SynapseError(
                f"{grown} are new, or have grown, since training began, and synapses cannot follow yet: leave such "
                "parameters out, as with protect=lambda name: 'classifier' not in name (a head that is trained in one "
                "task alone stays as it is after it), or give the model its full size before training"
            ) from reason

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """End the task, if it was not only a part of it."""
        experience = strategy.experience
        if isinstance(experience, OnlineCLExperience):
            self._parts = 1 if experience.is_first_subexp else self._parts + 1
            # Avalanche 0.6.0 calls none the last where the parts are of equal size, but says how many there are.
            if not experience.is_last_subexp and self._parts != experience.sub_stream_length:
                return
            experience = experience.origin_experience
        data = _batches(experience.dataset.eval(), strategy) if self._importance.needs_data else None
        self.synapses.consolidate(data)

    def _put(self, named: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
        if self._synapses is not None:
            self._synapses.attach(optimizer, named.items())
            return
        made = si.Consolidator(named.items(), optimizer, self._importance, c=self._c, omega_dtype=self._omega_dtype)
        if self._loaded is not None:
            made.load_state_dict(self._loaded)
        self._synapses, self._loaded = made, None


def _batches(dataset: Any, strategy: Any) -> Iterator[tuple[Tensor, Tensor]]:
    for x, y, *_ in DataLoader(dataset, strategy.train_mb_size, collate_fn=dataset.collate_fn):
        yield x.to(strategy.device), y.to(strategy.device)
