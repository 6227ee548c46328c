"""One optimizer step with synapses, as hooks around it.

Keep theta and g; add the surrogate gradient; let the optimizer step; path -= g * delta; put g back. With a closure the
first half happens inside it, as soon as the gradient is there.
"""

from __future__ import annotations

import inspect
import sys
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.optim import Optimizer

from synaptic_intelligence.binding import Binding
from synaptic_intelligence.diagnosis.movement import Movement
from synaptic_intelligence.diagnosis.stability import Watch
from synaptic_intelligence.errors import SynapseError
from synaptic_intelligence.native import Plan, Row
from synaptic_intelligence.passes import pass_after, pass_before
from synaptic_intelligence.sharding import local_rows, placed_like
from synaptic_intelligence.state import State
from synaptic_intelligence.strength import Strength, negative, pulls


@final
@dataclass(slots=True)
class Group:
    """The live parameters of one parameter group, from before a step until after it."""

    index: int
    c: Strength
    maximize: bool
    names: list[str]
    parameters: list[Tensor]
    gradients: list[Tensor | None]  # of the task loss alone; these very objects go back into p.grad
    versions: dict[str, int] = field(default_factory=dict)  # of the gradients that the optimizer is given


class OnePass(ABC):
    """What an optimizer offers that has the synapses inside: it takes a step and their share of it in one go."""

    @abstractmethod
    def keep(self, state: State) -> None:
        """Hold the tensors of the synapses in the optimizer's own state, now and whenever they are replaced."""

    @abstractmethod
    def prepare(self, groups: list[Group]) -> bool:
        """Return whether the step that follows pulls and integrates by itself; if not, it is done around it."""

    named: bool
    """Whether its parameters were given with names."""

    @abstractmethod
    def forget(self) -> None:
        """Give up the step that was prepared, if it was not taken."""

    @abstractmethod
    def may_keep(self, state: State) -> bool:
        """Return whether these are its own synapses, or it has none yet."""

    @property
    @abstractmethod
    def overflow(self) -> Tensor | None:
        """Whether an increment of the last such step was not finite: 1 or 0; None where nothing was integrated."""


@final
class Step:
    """The two halves of a step, before and after the optimizer's own.

    Args:
        binding: which parameters, in which optimizer.
        state: their synapses.
        strength: gives the ``c`` of a parameter group, which holds the parameters of these names.
        movement: looks at few of the steps, and knows what was warned of.

    Example: see :class:`~synaptic_intelligence.Consolidator`, which hooks ``before`` and ``after`` into an optimizer.
    """

    def __init__(
        self,
        binding: Binding,
        state: State,
        strength: Callable[[dict[str, Any], list[str]], Strength],
        movement: Movement,
    ) -> None:
        self._binding, self._state, self._strength, self._movement = binding, state, strength, movement
        self._watch = Watch(binding, strength)
        self._integrates = bool(state.path)
        self._inside = binding.optimizer if isinstance(binding.optimizer, OnePass) else None
        if self._inside is not None and not self._inside.may_keep(state):
            raise SynapseError(
                "this optimizer was made with synapses of its own: give it others when it is made, as synapses=..."
            )
        self._under_way: list[Group] | None = None
        self._in_one_pass = False
        self._awaits_closure = False
        self._was_late = False
        self._counts = True
        self._before: defaultdict[int, Plan] = defaultdict(lambda: Plan("pull"))  # for each parameter group
        self._after: defaultdict[int, Plan] = defaultdict(lambda: Plan("integrate_all"))
        self._work: dict[str, Tensor] = {}  # scratch in the dtype of the path: theta before the step
        self._used: dict[str, Tensor] = {}  # scratch in the dtype of the gradient: what the optimizer is given
        self._scratch_of: list[Any] = []  # how parameters lay when that was made

    @property
    def scratch(self) -> list[Tensor]:
        """What is kept from step to step and written over."""
        return [*self._work.values(), *self._used.values()]

    @_disable_dynamo
    def before(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Prepare the step, or have the closure do it."""
        if self._state.pauses or _is_inner(optimizer):
            return None
        self.abandon()  # the step before this one, if it raised half-way
        self._counts = not _only_makes_state(optimizer)
        if torch._C._current_graph_task_id() != -1:
            raise SynapseError(
                "the optimizer steps inside backward(), where gradients are not complete: step after it instead"
            )
        positional = len(args) > 1  # args[0] is the optimizer itself
        closure = args[1] if positional else kwargs.get("closure")
        late = self._other_hooks_follow(optimizer)
        if closure is None and not late:
            self._begin(optimizer)
            return None
        self.follow()
        self._state.accept_weights()
        self._awaits_closure, self._was_late = True, late
        begun = partial(self._evaluate_then_begin, optimizer, closure)
        if positional:
            return (args[0], begun, *args[2:]), kwargs
        return args, {**kwargs, "closure": begun}

    @_disable_dynamo
    def _evaluate_then_begin(self, optimizer: Optimizer, closure: Callable[[], Any] | None) -> Any:
        """Stand in the place of the user's closure, or where there is none run after all other hooks."""
        if not self._awaits_closure:
            self._put_back()
            raise SynapseError("the optimizer called its closure twice in one step: such steps have no one gradient")
        if closure is not None and self._state.edited():
            self._awaits_closure = False
            raise SynapseError(
                "the optimizer moved the weights before it called its closure: the gradient is not that of the step"
            )
        loss = None if closure is None else closure()
        self._begin(optimizer)
        return loss

    def _other_hooks_follow(self, optimizer: Optimizer) -> bool:
        """Whether step hooks that were registered later run after this one: they may still change the gradients.

        Raises:
            SynapseError: they do, and the optimizer takes no closure, in which this step could wait for them.
        """
        for hook in reversed(optimizer._optimizer_step_pre_hooks.values()):
            owner = getattr(hook, "__self__", None)
            if owner is self:
                return False
            if not isinstance(owner, Step):
                break
        if "closure" not in inspect.signature(type(optimizer).step).parameters:
            raise SynapseError(
                "a step hook was registered after the synapses, and may change gradients that they have seen already: "
                "call synapses.attach(optimizer) once more, or register it before they are made"
            )
        return True

    def _become_last(self, optimizer: Optimizer) -> None:
        """Take the place after all other step hooks; never while the optimizer walks over them."""
        hooks: Any = optimizer._optimizer_step_pre_hooks  # an OrderedDict
        for key in [key for key, hook in hooks.items() if getattr(hook, "__self__", None) is self]:
            hooks.move_to_end(key)

    @_disable_dynamo
    @torch.no_grad()
    def after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Integrate the path over the step that was taken, and put the task's gradients back."""
        if self._state.pauses or _is_inner(optimizer):
            return
        late, self._was_late = self._was_late, False
        if late:
            self._become_last(optimizer)
        if self._awaits_closure:
            self._awaits_closure = False
            if late:
                raise SynapseError(
                    "a step hook was registered after the synapses, and the optimizer did not call the closure in "
                    "which they waited for it: this step was not seen; call synapses.attach(optimizer) before it"
                )
            raise SynapseError(
                "the optimizer did not call the closure that it was given: the step had no gradient to see"
            )
        if self._under_way is None:
            return
        overflow: Tensor | None = None
        if self._in_one_pass and self._inside is not None:
            overflow = self._inside.overflow
        for group in self._under_way if self._integrates and not self._in_one_pass else []:
            paths, before = (map(named.__getitem__, group.names) for named in (self._state.path, self._work))
            moved: list[Row] = [
                row for row in zip(group.parameters, group.gradients, paths, before, strict=True) if row[1] is not None
            ]
            if moved:
                moved = local_rows(moved) if self._state.sharded else moved
                found = pass_after(moved, maximize=group.maximize, plan=self._after[group.index])
                overflow = found if overflow is None else torch.maximum(overflow, found.to(overflow))
        self._put_back()
        if self._counts:
            self._movement.after(getattr(optimizer, "found_inf", None))
            self._state.count_step(overflow, getattr(optimizer, "found_inf", None))
        else:
            self._state.accept_weights()

    def abandon(self) -> None:
        """Forget the step that is under way, if any, as one does that raised half-way; put the task's gradients back.

        Raises:
            SynapseError: other gradients were written since, into what that step left; they would be lost.
        """
        for group in self._under_way or []:
            for name, parameter in zip(group.names, group.parameters, strict=True) if not self._in_one_pass else ():
                used = self._used[name]
                if parameter.grad is used and used._version != group.versions[name]:
                    raise SynapseError(
                        f"a step raised half-way, and the gradient of {name!r} was written in it or since: call "
                        "optimizer.zero_grad(set_to_none=True), and compute the gradients again"
                    )
        self._put_back()

    def _put_back(self) -> None:
        for group in self._under_way or []:
            for name, parameter, gradient in zip(group.names, group.parameters, group.gradients, strict=True):
                if not self._in_one_pass and parameter.grad is self._used[name]:
                    parameter.grad = gradient
        self._under_way, self._awaits_closure, self._in_one_pass = None, False, False
        if self._inside is not None:
            self._inside.forget()

    def follow(self) -> None:
        """Notice parameters that were replaced, moved or edited since the last step."""
        for old, new in self._state.follow(self._binding.parameters()):
            self._binding.replace(old, new)
        if self._scratch_of is not self._state.seen:
            self._work, self._used, self._scratch_of = {}, {}, self._state.seen
        self._state.warn_of_edit()

    @torch.no_grad()
    def _begin(self, optimizer: Optimizer) -> None:
        self.follow()
        groups = [self._look_at(*group) for group in self._binding.groups()]
        self._awaits_closure = False
        if not any(group.names for group in groups):
            return  # nothing has a gradient, so nothing moves: this is no step
        due = self._counts and self._movement.due
        if due:
            self._warn_of_divergence()
        _unscale(optimizer)
        state = self._state
        if due:
            self._movement.before(
                (parameter, gradient, optimizer.param_groups[group.index].get("lr"))
                for group in groups
                for parameter, gradient in zip(group.parameters, group.gradients, strict=True)
            )
        groups = [group for group in groups if group.names and (self._pulls(group) or self._integrates)]
        if self._inside is not None and self._inside.prepare(groups):
            self._under_way, self._in_one_pass = groups, True
            return
        for group in groups:
            work, used = self._scratch(group)
            c = group.c if self._pulls(group) else 0.0
            held = [named if c else {} for named in (state.anchor, state.omega, {})]
            anchors, wide, coarse = ([named.get(name) for name in group.names] for named in held)
            if state.coarse:
                wide, coarse = coarse, wide
            rows = list(zip(group.parameters, group.gradients, anchors, wide, used, work, coarse, strict=True))
            rows = local_rows(rows) if state.sharded else rows
            pull, plan = negative(c) if group.maximize else c, self._before[group.index]
            pass_before(rows, pull, integrates=self._integrates, plan=plan)
        # Nothing below can fail. The optimizer works on the scratch gradient, which it may edit; the task's own stays.
        self._under_way = groups
        for group in groups:
            for name, parameter in zip(group.names, group.parameters, strict=True):
                parameter.grad = self._used[name]
                group.versions[name] = self._used[name]._version

    def _warn_of_divergence(self) -> None:
        found = self._watch.look(self._state.omega, self._state.important)  # that set is made anew with each omega
        self._movement.warned.judge("unstable", str(found) if found is not None and found.diverges else None)

    def _look_at(self, index: int, options: dict[str, Any], names: list[str]) -> Group:
        """Read a parameter group, and refuse what cannot be integrated while nothing is changed yet."""
        c, maximize = self._strength(options, names), bool(options.get("maximize", False))
        parameters = [*map(self._state.parameters.__getitem__, names)]
        gradients = [parameter.grad for parameter in parameters]
        if self._state.sharded:  # tensor parallelism may leave a gradient in parts that are yet to be summed
            pairs = zip(gradients, parameters, strict=True)
            gradients = [None if gradient is None else placed_like(gradient, p) for gradient, p in pairs]
        if all(gradient is not None and gradient.layout is torch.strided for gradient in gradients):
            return Group(index, c, maximize, names, parameters, gradients)
        group = Group(index, c, maximize, [], [], [])
        for name, parameter, gradient in zip(names, parameters, gradients, strict=True):
            if gradient is None:
                # As with the penalty in the loss: what has importance is pulled, the rest stays without a gradient.
                if not (self._pulls(group) and name in self._state.important and parameter.requires_grad):
                    continue
            elif gradient.layout is not torch.strided:
                raise SynapseError(
                    f"the gradient of {name!r} is sparse: make it dense (sparse=False), or filter it out"
                )
            group.names.append(name)
            group.parameters.append(parameter)
            group.gradients.append(gradient)
        return group

    def _pulls(self, group: Group) -> bool:
        return pulls(group.c) and bool(self._state.omega)

    def _scratch(self, group: Group) -> tuple[list[Tensor], list[Tensor]]:
        pairs = zip(group.parameters, group.gradients, strict=True)
        used_like = [parameter if gradient is None else gradient for parameter, gradient in pairs]
        work_like = [*map(self._state.anchor.__getitem__, group.names)]
        return _kept(self._work, group.names, work_like), _kept(self._used, group.names, used_like)


def _kept(scratch: dict[str, Tensor], names: list[str], likes: list[Tensor]) -> list[Tensor]:
    """Return the scratch of these names, made anew where it is of another dtype or device than what it is like."""
    found = [*map(scratch.get, names)]
    for i, (tensor, like) in enumerate(zip(found, likes, strict=True)):
        if tensor is None or tensor.dtype is not like.dtype or tensor.device != like.device:
            found[i] = scratch[names[i]] = torch.empty_like(like, requires_grad=False)
    return [tensor for tensor in found if tensor is not None]


def _is_inner(optimizer: Optimizer) -> bool:
    """Whether a hook runs in a ``step`` that another ``step`` of the same optimizer has called.

    A subclass whose ``step`` calls its parent's fires the hooks for both, and only the outer pair counts. The call
    stack tells; a count would be wrong for good after a step that raised.
    """
    code = getattr(type(optimizer).step, "__code__", None)
    frame, found = sys._getframe(1), 0
    while frame.f_back is not None and found < 2:
        if frame.f_code is code and any(value is optimizer for value in frame.f_locals.values()):
            found += 1
        frame = frame.f_back
    return found == 2


def _only_makes_state(optimizer: Optimizer) -> bool:
    """Whether this may be torch.distributed.checkpoint, which makes an optimizer's state by a step that moves nothing.

    A warm-up that starts at zero looks the same: such a step is done as any other, and only not counted. (A plain SGD,
    which never has state, may step many times at rate zero: there is no path in that either.)
    """
    rates = [group.get("lr") for group in optimizer.param_groups]
    return not optimizer.state and all(rate is not None and float(rate) == 0 for rate in rates)


def _unscale(optimizer: Optimizer) -> None:
    """Divide by the scale that a GradScaler leaves to a fused optimizer, as ``scaler.unscale_`` would have done."""
    scale = getattr(optimizer, "grad_scale", None)
    if scale is None:
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.div_(scale.to(parameter.grad.device))
    # Not None, as GradScaler itself would: it multiplies by what a step that raised has left there.
    vars(optimizer)["grad_scale"] = torch.ones_like(scale)
