"""Intelligent synapses around an ordinary optimizer: they watch each step, and hold what was important."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from synaptic_intelligence.arguments import checked_number
from synaptic_intelligence.binding import Binding, canonical_parameters, living
from synaptic_intelligence.checkpoint import read_importance, write_importance
from synaptic_intelligence.diagnosis.pull import penalty
from synaptic_intelligence.diagnosis.report import Diagnosis, diagnose, warn_at_task_end
from synaptic_intelligence.errors import SynapseError, warn
from synaptic_intelligence.importance import Importance, PathIntegral
from synaptic_intelligence.importance.choice import importance_to_start_from
from synaptic_intelligence.importance.estimator import refuse_other_data
from synaptic_intelligence.importance_file import ImportanceFile, from_state_dict, to_state_dict
from synaptic_intelligence.memory import Memory
from synaptic_intelligence.observed import Observed
from synaptic_intelligence.sharding import processes_of, together
from synaptic_intelligence.state import State
from synaptic_intelligence.step import OnePass, Step
from synaptic_intelligence.strength import Strength, as_given, checked_strength
from synaptic_intelligence.surgery import Surgery
from synaptic_intelligence.triggers import Trigger


@final
class Consolidator:
    """Synapses that estimate their importance during a task, and are held in proportion from the next task on.

    Steps of the optimizer are watched through its hooks; the training loop stays as it is, and its loss stays the
    task loss. Call :meth:`consolidate` when a task ends.

    Args:
        named: ``model.named_parameters()``, perhaps filtered: what is left out is not protected. Tied parameters count
            once. Frozen parameters that the optimizer does not hold are left out.
        optimizer: the optimizer of these parameters. A parameter group may set the option ``c``: its own strength, or
            ``None`` for no synapses at all.
        importance: how importance is estimated, such as ``PathIntegral(xi)`` or ``Fisher(model, loss, kind=...)``.
        c: strength of the pull, without unit; zero turns the pull off. It may be set at any time. Where networks are
            trained side by side, stacked along a leading axis of every parameter, a tensor ``[R]`` gives each its own.
        omega_dtype: ``torch.bfloat16`` keeps omega in two bytes a number; None: as path and anchor. It is rounded when
            a task ends, so what a task adds is lost where it is below 1/512 of what is there; README has what that
            changed.

    Raises:
        TypeError: LBFGS, complex or uninitialised parameters, or arguments of the wrong type; with a tensor ``c``, an
            optimizer that may mix the replicates.
        ValueError: ``c`` negative or not finite, or a tensor that does not fit the first axis of a parameter; another
            ``omega_dtype``; a parameter that is not in the optimizer, or twice; none at all.
        SynapseError: another consolidator holds one of the parameters.

    ``path``, ``omega`` and ``anchor`` are float32, or wider for wider parameters; ask for them again after a task or a
    load, which put new tensors in their place. The path takes the gradient as it reaches the optimizer: accumulated,
    unscaled and clipped. The optimizer is given it in a buffer that is reused, so it must not keep ``p.grad`` itself
    from one step to the next (none of torch's do).

    Source: Zenke, Poole, Ganguli 2017, *Continual Learning Through Synaptic Intelligence*.

    Example:
        >>> import torch, synaptic_intelligence as si
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> synapses = si.Consolidator(model.named_parameters(), optimizer, si.PathIntegral(xi=0.1), c=0.5)
        >>> for target in (1.0, -1.0):  # two tasks
        ...     for _ in range(20):
        ...         optimizer.zero_grad()
        ...         (model(torch.ones(1, 2)) - target).square().sum().backward()
        ...         optimizer.step()
        ...     path = synapses.consolidate()
        >>> synapses.tasks, sorted(synapses.omega)
        (2, ['bias', 'weight'])
        >>> model(torch.ones(1, 2)).item() > -0.9  # held back by what the first task needs
        True
    """

    def __init__(
        self,
        named: Iterable[tuple[str, Tensor]],
        optimizer: Optimizer,
        importance: Importance,
        *,
        c: float | Tensor,
        omega_dtype: torch.dtype | None = None,
    ) -> None:
        if omega_dtype not in (None, torch.bfloat16):
            raise ValueError(f"omega_dtype must be torch.bfloat16, or None for that of the path: not {omega_dtype}")
        self._importance = importance
        parameters = canonical_parameters(named)
        self._binding = Binding(parameters, optimizer)
        self._c = self._binding.fitting(checked_strength(c, "c"))
        self._unprotected = self._binding.left_out(parameters)
        if not self._binding.places:
            raise ValueError("nothing to protect: every parameter is frozen or in a group with c=None")
        self._observed = Observed()
        self._state = State(
            self._binding.parameters(), integrates_path=importance.integrates_path, coarse=omega_dtype is not None
        )
        self._step = Step(self._binding, self._state, self._strength, self._observed.movement)
        self._state.warn_of_low_precision()
        self._binding.hold(self._step.before, self._step.after)
        if isinstance(optimizer, OnePass):
            optimizer.keep(self._state)

    # What users read.

    @property
    def c(self) -> float | Tensor:
        """The strength of the pull, for groups that do not set their own."""
        return as_given(self._binding.common_strength(self._c))

    @c.setter
    def c(self, value: float | Tensor) -> None:
        self._c = self._binding.fitting(checked_strength(value, "c"))
        self._binding.change_strength(self._c)

    @property
    def importance(self) -> Importance:
        """The estimator."""
        return self._importance

    @property
    def tasks(self) -> int:
        """How many tasks were consolidated."""
        return self._state.tasks

    @property
    def path(self) -> Mapping[str, Tensor]:
        """The path integral of the task so far, by name, in units of the loss; empty if the estimator has none."""
        return MappingProxyType(self._state.path)

    @property
    def anchor(self) -> Mapping[str, Tensor]:
        """The parameters at the end of the last task, by name; before that, as they were made."""
        if self._state.untouched:
            self._step.follow()
        return MappingProxyType(self._state.anchor)

    @property
    def omega(self) -> Mapping[str, Tensor]:
        """The importance, by name, in loss / theta^2; zeros before the first consolidation."""
        return MappingProxyType(self._state.omega_or_zeros())

    def memory(self) -> Memory:
        """Return what the synapses take in memory; printed, it says how much for each parameter.

        Example:
            >>> import torch, synaptic_intelligence as si
            >>> p = torch.nn.Parameter(torch.ones(1000))
            >>> print(si.SynapticIntelligence([("w", p)], torch.optim.Adam([p]), c=1.0, xi=0.1).memory())
            8.0 bytes per parameter: path 4.0, anchor 4.0, omega 0.0, scratch 0.0; 0.0 MB in all
        """
        return self._state.memory(self._step.scratch)

    @torch.no_grad()
    def penalty(self) -> Tensor:
        """Return the surrogate loss now, for logging; it has no gradient, for steps add that by themselves.

        Returns:
            A tensor without dimensions, in units of the loss. Where parameters are sharded, of all their parts: every
            process must call this.

        Source: Zenke et al. 2017, second term of eq. 4.

        Example:
            >>> import torch, synaptic_intelligence as si
            >>> p = torch.nn.Parameter(torch.ones(1))
            >>> si.SynapticIntelligence([("w", p)], torch.optim.SGD([p], lr=0.1), c=1.0, xi=0.1).penalty()
            tensor(0.)
        """
        self._step.follow()
        return penalty(self._binding, self._state, self._strength)

    def diagnose(self, loss: float | Tensor | None = None) -> Diagnosis:
        """Return what the synapses say of themselves, and what is wrong or may be; printed, it is a report.

        It changes nothing. Call it after ``optimizer.step()`` and before ``zero_grad()``, so that there are gradients.
        Where parameters are sharded, every process must call it.

        Args:
            loss: of the task alone; None: that which :meth:`observe` was last told of.

        Example: see :class:`Diagnosis`.
        """
        seen, known = self._observed, self._observed.loss_or(loss)
        held = self._binding, self._state, self._strength, self._unprotected
        return diagnose(*held, seen.movement, seen.classes, known, unheard=seen.unheard)

    # The end of a task.

    @torch.no_grad()
    def consolidate(
        self, data: Iterable[tuple[Tensor, Tensor]] | None = None, *, decay: float = 1.0
    ) -> Mapping[str, Tensor]:
        """End a task: renew omega, move the anchor to the parameters, start a new path. All of it, or nothing.

        Args:
            data: batches of (inputs, targets) of the task, for estimators that need them.
            decay: what the omega so far is multiplied by, from above 0 to 1, before that of the task is added: below 1,
                a stream without end forgets its oldest parts.

        Returns:
            The path integral of the task that ended, by name, in units of the loss; empty if the estimator has none.

        Raises:
            TypeError: data is missing, or given to an estimator that uses none.
            SynapseError: no step since the last consolidation (path integral alone), or a parameter or the new omega
                is not finite.

        Source: Zenke et al. 2017, eq. 5 and the text below it.

        Example: see the class.
        """
        estimator, state = self._importance, self._state
        refuse_other_data(estimator, data, "consolidate")
        decay = state.checked_decay(decay)
        self._step.abandon()
        self._step.follow()
        if estimator.integrates_path and state.steps == 0:
            raise SynapseError(
                "no optimizer step since the last consolidation, so there is no path: train first (a step that finds "
                "no gradient in p.grad is none)"
            )
        state.refuse_nonfinite_parameters()
        state.warn_of_nonfinite()
        return MappingProxyType(self._end_task(state.estimated(estimator, data, decay=decay), decay))

    @torch.no_grad()
    def bootstrap(
        self,
        importance: Importance | None = None,
        data: Iterable[tuple[Tensor, Tensor]] | None = None,
        *,
        weight: float = 1.0,
    ) -> None:
        """Protect weights that were trained without synapses, as if a task had just ended; before the first step.

        Args:
            importance: what fills omega, such as ``Fisher``, ``MAS`` or ``ShortPath``, from data like the old; or
                ``Uniform``, without data. None: that of these synapses, if there is data and it takes some; without
                data uniform, and a warning, for it is no importance.
            data: batches of (inputs, targets), for estimators that need them.
            weight: what that importance is multiplied by. Estimators are on scales of their own: docs/bootstrap.md.

        Raises:
            TypeError: data is missing, or given to an estimator that uses none.
            SynapseError: steps were taken, or a task was consolidated; a parameter or the omega is not finite.

        Source: for the uniform one Li, Grandvalet, Davoine 2018, *Explicit Inductive Bias for Transfer Learning*.

        Example:
            >>> import torch, torch.nn.functional as F, synaptic_intelligence as si
            >>> model = torch.nn.Linear(4, 3)  # as it was loaded
            >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            >>> synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=1.0, xi=0.1)
            >>> data = [(torch.randn(8, 4), torch.randint(3, (8,)))]  # like what it was trained on
            >>> synapses.bootstrap(si.Fisher(model, F.cross_entropy, kind="exact"), data)
            >>> synapses.tasks, bool(synapses.omega["weight"].sum() > 0)
            (1, True)
        """
        weight = checked_number(weight, "weight", zero_is_fine=False)
        self._step.abandon()
        self._step.follow()
        if self._state.tasks or self._state.steps:
            raise SynapseError("bootstrap comes before the first step and the first task: make new synapses for it")
        importance = importance_to_start_from(importance, data, self._importance)
        self._state.refuse_nonfinite_parameters()
        omega, origin = self._state.bootstrapped(importance, data, weight)
        self._end_task(omega, origin=origin)

    def _end_task(self, omega: dict[str, Tensor], decay: float = 1.0, origin: str = "") -> Mapping[str, Tensor]:
        # Warnings first, as a user may have made them errors: nothing is changed yet.
        warn_at_task_end(self._binding, self._state, self._strength, self.penalty(), omega, self._observed.movement)
        path = self._state.end_task(omega, decay=decay, origin=origin)
        self._observed.end_task()
        return path

    # A stream without tasks.

    @property
    def trigger(self) -> Trigger | None:
        """What decides when to consolidate where nobody announces a task, such as ``si.triggers.Every(1000)``."""
        return self._observed.trigger

    @trigger.setter
    def trigger(self, value: Trigger | None) -> None:
        self._observed.take_trigger(value, self._importance, self._state)

    def observe(self, loss: float | Tensor, targets: Tensor | None = None) -> bool:
        """Tell of the loss of a step that was taken; consolidate if the trigger says so.

        Args:
            loss: of the task alone, a number or a tensor with one element. Where several processes train one model it
                is averaged over them, if the trigger needs it: every process must call this.
            targets: the labels of the batch, for :meth:`diagnose` alone.

        Returns:
            Whether a task ended here. None does where all steps were skipped, as by a ``GradScaler``; and a trigger
            hears of each step once, also where losses of several micro-batches are told.

        Raises:
            TypeError, ValueError: the loss is no number.
            SynapseError: as :meth:`consolidate`; the trigger then fires again after the next step.

        Example:
            >>> import torch, synaptic_intelligence as si
            >>> p = torch.nn.Parameter(torch.ones(1))
            >>> optimizer = torch.optim.SGD([p], lr=0.1)
            >>> synapses = si.SynapticIntelligence([("w", p)], optimizer, c=1.0, xi=0.1)
            >>> synapses.trigger = si.triggers.Every(2)
            >>> for _ in range(4):
            ...     optimizer.zero_grad()
            ...     loss = p.square().sum()
            ...     loss.backward()
            ...     optimizer.step()
            ...     print(synapses.observe(loss))
            False
            True
            False
            True
        """
        device = next(iter(self._state.anchor.values())).device
        fired = self._observed.fired(loss, targets, device, 0 if self._state.pauses else self._state.steps_taken)
        fired = fired and self._state.steps > 0
        if fired and self.trigger is not None:
            self.consolidate(decay=self.trigger.decay)
        return fired

    # The optimizer.

    def attach(
        self,
        optimizer: Optimizer,
        named: Iterable[tuple[str, Tensor]] | None = None,
        *,
        surgery: Surgery | None = None,
    ) -> None:
        """Move the synapses to another optimizer, as when a task starts with a fresh Adam.

        The old optimizer raises if it is stepped afterwards. Everything that was learnt stays.

        Args:
            optimizer: the one that will be stepped from now on.
            named: ``model.named_parameters()`` once more, if the model's parameters are new objects since.
            surgery: what was done to the model, if it has other parameters since, or of other shapes.

        Raises:
            TypeError, ValueError: as for the class; the synapses then stay where they were.
            SynapseError: the new optimizer would protect other parameters than these, and surgery does not say so; what
                surgery says is not what was done; the optimizer or the estimator is still that of the old model.

        Example:
            >>> import torch, synaptic_intelligence as si
            >>> p = torch.nn.Parameter(torch.ones(1))
            >>> synapses = si.SynapticIntelligence([("w", p)], torch.optim.Adam([p]), c=1.0, xi=0.1)
            >>> synapses.attach(torch.optim.SGD([p], lr=0.1))
        """
        if surgery is not None and not isinstance(surgery, Surgery):
            raise TypeError(f"surgery must be an si.Surgery, such as Surgery(resized=['head']): not {surgery!r}")
        if named is None and surgery is not None:
            raise TypeError("attach(optimizer, named, surgery=...) needs the model's named_parameters() of now")
        spare = living(self._unprotected) if named is None else {}
        parameters = {**spare, **self._state.parameters} if named is None else canonical_parameters(named)
        binding = self._binding.successor(parameters, optimizer, self._c, of_any=surgery is not None, spare=spare)
        self._step.abandon()
        state, new = self._state, binding.parameters()
        if surgery is None:
            state.refuse_and_warn_of_others(new)
        else:
            state = state.successor(surgery.attached(state, new, optimizer, self._importance, self._c), new)
        step = Step(binding, state, self._strength, self._observed.movement)
        binding.hold(step.before, step.after, instead_of=self._binding)
        self._binding, self._state, self._step = binding, state, step
        self._unprotected = binding.left_out(parameters)
        step.follow()

    def detach(self) -> None:
        """Take the synapses off their optimizer, which raises if it is stepped; :meth:`attach` puts them on another.

        To train for a while without synapses use :meth:`paused`.

        Example:
            >>> import torch, synaptic_intelligence as si
            >>> p = torch.nn.Parameter(torch.ones(1))
            >>> optimizer = torch.optim.Adam([p])
            >>> synapses = si.SynapticIntelligence([("w", p)], optimizer, c=1.0, xi=0.1)
            >>> synapses.detach()
            >>> optimizer.step()
            Traceback (most recent call last):
            ...
            synaptic_intelligence.errors.SynapseError: the synapses of this optimizer were detached or moved to ...
        """
        self._step.abandon()
        self._binding.release()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Return a context in which optimizer steps neither pull nor integrate.

        Example:
            >>> import torch, synaptic_intelligence as si
            >>> p = torch.nn.Parameter(torch.ones(1))
            >>> optimizer = torch.optim.SGD([p], lr=0.1)
            >>> synapses = si.SynapticIntelligence([("w", p)], optimizer, c=1.0, xi=0.1)
            >>> with synapses.paused():
            ...     optimizer.step()
        """
        self._step.abandon()
        self._step.follow()
        self._state.pauses += 1
        try:
            yield
        finally:
            self._state.pauses -= 1
            self._state.accept_any_weights()

    # State.

    def state_dict(self) -> dict[str, Any]:
        """Return everything that training goes on from, tensors by reference, as ``torch.optim`` does.

        Load with :meth:`load_state_dict`; it is exact in the middle of a task too. Copy it before you train on.

        Example:
            >>> import torch, synaptic_intelligence as si
            >>> p = torch.nn.Parameter(torch.ones(1))
            >>> synapses = si.SynapticIntelligence([("w", p)], torch.optim.Adam([p]), c=1.0, xi=0.1)
            >>> synapses.state_dict()["anchor"]
            {'w': tensor([1.])}
        """
        return {**to_state_dict(self._snapshot()), **self._observed.state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state that :meth:`state_dict` gave, all of it or nothing.

        ``c`` is loaded too, with a warning where it differs. Load the weights of the model as well.

        Raises:
            SynapseError: the state is of another schema or estimator, of other settings, names or shapes, or damaged.
            TypeError, ValueError: its ``c`` is one for each replicate, and these parameters hold no such replicates.

        Example:
            >>> import torch, synaptic_intelligence as si
            >>> p = torch.nn.Parameter(torch.ones(1))
            >>> synapses = si.SynapticIntelligence([("w", p)], torch.optim.Adam([p]), c=1.0, xi=0.1)
            >>> synapses.load_state_dict(synapses.state_dict())
        """
        with self._observed.loading(state) as rest:
            self._take_over(from_state_dict(rest), "state")

    def save(self, path: str | Path) -> None:
        """Write importance and anchor to a safetensors file, with the path too in the middle of a task.

        Where parameters are sharded, every process must call this, and the first one writes.

        Raises:
            OSError: the folder does not exist, is read-only or full; an old file stays whole.

        Example:
            >>> import tempfile, torch, synaptic_intelligence as si
            >>> p = torch.nn.Parameter(torch.ones(1))
            >>> synapses = si.SynapticIntelligence([("w", p)], torch.optim.Adam([p]), c=1.0, xi=0.1)
            >>> file = tempfile.mkdtemp() + "/importance.safetensors"
            >>> synapses.save(file)
            >>> synapses.load(file)
        """
        if isinstance(self._binding.optimizer, OnePass) and not self._binding.optimizer.named:
            raise SynapseError("the parameters have no names to save them by: give named_parameters() to the optimizer")
        write_importance(self._snapshot(), Path(path))

    def load(self, path: str | Path) -> None:
        """Take over an importance file; the weights of the model stay, and are pulled to the file's anchor.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged or foreign.
            SynapseError: it is of another estimator, of other settings, names or shapes.

        Example: see :meth:`save`.
        """
        group = processes_of(self._state.parameters.values())
        self._take_over(together(group, lambda: read_importance(Path(path))), str(path))

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuse copies and pickles: they would lose the optimizer's hooks without a word."""
        raise TypeError(
            "synapses cannot be copied or pickled: make new ones, and load state_dict() or save() into them"
        )

    def _strength(self, group: dict[str, Any], names: list[str]) -> Strength:
        return self._binding.strength(group, names, self._c)

    def _snapshot(self) -> ImportanceFile:
        if self._state.untouched:
            self._step.follow()
        snapshot = self._state.snapshot(self._importance, self._binding.common_strength(self._c))
        return replace(snapshot, own_c=bool(self._binding.own_strengths()))

    def _take_over(self, file: ImportanceFile, what: str) -> None:
        copies = self._state.checked_copies(file, what, self._importance)
        self._binding.fitting(file.c)
        self._step.abandon()
        if file.c != (was := self._binding.common_strength(self._c)):
            # Before anything is changed: a user may have made warnings errors.
            warn(f"c is {file.c} in {what} and was {was}: now {file.c}")
            self.c = as_given(file.c)
        self._state.take_over(file, copies)
        self._observed.expect_step()


def SynapticIntelligence(
    named: Iterable[tuple[str, Tensor]],
    optimizer: Optimizer,
    *,
    c: float | Tensor,
    xi: float,
    omega_dtype: torch.dtype | None = None,
) -> Consolidator:
    """Make intelligent synapses, a :class:`Consolidator` whose importance is the path integral.

    Args:
        named: ``model.named_parameters()``, perhaps filtered.
        optimizer: any ``torch.optim.Optimizer`` but LBFGS.
        c: strength of the pull, without unit; the paper takes 0.1 to 1. A tensor ``[R]``: one for each replicate.
        xi: damping, in theta^2; the paper takes 1e-3 for split tasks and 0.1 for permuted MNIST.
        omega_dtype: ``torch.bfloat16`` halves omega's memory; None: as path and anchor.

    Raises:
        ValueError, TypeError, SynapseError: as :class:`Consolidator` and :class:`PathIntegral`.

    Source: Zenke, Poole, Ganguli 2017, *Continual Learning Through Synaptic Intelligence*.

    Example:
        >>> import torch, synaptic_intelligence as si
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=0.1, xi=0.1)
        >>> synapses.c
        0.1
        >>> stacked = torch.nn.Parameter(torch.ones(2, 5))  # two replicates of five numbers each
        >>> optimizer = torch.optim.SGD([stacked], lr=0.1)
        >>> si.SynapticIntelligence([("w", stacked)], optimizer, c=torch.tensor([0.0, 0.5]), xi=0.1).c
        tensor([0.0000, 0.5000], dtype=torch.float64)
    """
    return Consolidator(named, optimizer, PathIntegral(xi), c=c, omega_dtype=omega_dtype)
