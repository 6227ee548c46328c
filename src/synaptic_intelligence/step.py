"""One optimizer step with synapses, as hooks around it.

Keep theta and g; add the surrogate gradient; let the optimizer step; path -= g * delta; put g back. With a closure the
first half happens inside it, as soon as the gradient is there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from synaptic_intelligence.binding import Binding
from synaptic_intelligence.errors import SynapseError
from synaptic_intelligence.functional import add_surrogate_gradients_, integrate_paths_
from synaptic_intelligence.state import State


@final
@dataclass(slots=True)
class _Group:
    """The live parameters of one parameter group, from before a step until after it."""

    c: float
    maximize: bool
    names: list[str]
    parameters: list[Tensor]
    gradients: list[Tensor | None]  # of the task loss alone; these very objects go back into p.grad


@final
class Step:
    """The two halves of a step, before and after the optimizer's own.

    Args:
        binding: which parameters, in which optimizer.
        state: their synapses.
        strength: gives a parameter group's ``c``.

    Example: see :class:`~synaptic_intelligence.Consolidator`, which hooks ``before`` and ``after`` into an optimizer.
    """

    def __init__(self, binding: Binding, state: State, strength: Callable[[dict[str, Any]], float]) -> None:
        self._binding, self._state, self._strength = binding, state, strength
        self._integrates = bool(state.path)
        self._under_way: list[_Group] | None = None
        self._awaits_closure = False
        # A subclass whose step() calls its parent's fires the hooks once for each: only the outermost pair counts.
        mro = type(binding.optimizer).__mro__
        steps = {inspect.unwrap(vars(cls)["step"]) for cls in mro if "step" in vars(cls) and cls is not Optimizer}
        self._levels, self._depth = len(steps), 0
        self._work: dict[str, Tensor] = {}  # scratch in the dtype of the path: theta before the step
        self._used: dict[str, Tensor] = {}  # scratch in the dtype of the gradient: what the optimizer is given

    def before(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Prepare the step, or have the closure do it."""
        if self._state.pauses:
            return None
        if 0 < self._depth < self._levels and self._is_in_place():
            self._depth += 1
            return None
        self.abandon()  # the step before this one, if it raised half-way
        self._depth = 1
        positional = len(args) > 1  # args[0] is the optimizer itself
        closure = args[1] if positional else kwargs.get("closure")
        if closure is None:
            self._begin(optimizer)
            return None
        self._awaits_closure = True

        def closure_then_begin() -> Any:
            if not self._awaits_closure:
                self.abandon()
                raise SynapseError(
                    "the optimizer called its closure twice in one step: such steps have no one gradient"
                )
            loss = closure()
            self._begin(optimizer)
            return loss

        if positional:
            return (args[0], closure_then_begin, *args[2:]), kwargs
        return args, {**kwargs, "closure": closure_then_begin}

    @torch.no_grad()
    def after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Integrate the path over the step that was taken, and put the task's gradients back."""
        if self._state.pauses:
            return
        self._depth = max(0, self._depth - 1)
        if self._depth > 0:
            return
        if self._awaits_closure:
            self.abandon()
            raise SynapseError(
                "the optimizer did not call the closure that it was given: the step had no gradient to see"
            )
        if self._under_way is None:
            return
        overflow: Tensor | None = None
        for group in self._under_way if self._integrates else []:
            moved = [
                (self._state.path[name], gradient, self._work[name], parameter)
                for name, gradient, parameter in zip(group.names, group.gradients, group.parameters, strict=True)
                if gradient is not None
            ]
            if moved:
                paths, gradients, before, after = zip(*moved, strict=True)
                found = integrate_paths_(paths, gradients, before, after, maximize=group.maximize)
                overflow = found if overflow is None else torch.maximum(overflow, found.to(overflow))
        self.abandon()
        self._state.count_step(overflow, getattr(optimizer, "found_inf", None))

    def abandon(self) -> None:
        """Forget the step that is under way, if any, and put the task's gradients back."""
        for group in self._under_way or []:
            for name, parameter, gradient in zip(group.names, group.parameters, group.gradients, strict=True):
                if parameter.grad is self._used[name]:
                    parameter.grad = gradient
        self._under_way, self._awaits_closure = None, False

    def follow(self) -> None:
        """Notice parameters that were replaced, moved or edited since the last step."""
        for old, new in self._state.follow(self._binding.parameters()):
            self._binding.replace(old, new)

    @torch.no_grad()
    def _begin(self, optimizer: Optimizer) -> None:
        self.follow()
        groups = [self._look_at(options, names) for options, names in self._binding.groups()]
        _unscale(optimizer)
        self._awaits_closure = False
        state = self._state
        self._under_way = [group for group in groups if group.names and (self._pulls(group) or self._integrates)]
        for group in self._under_way:
            work, used = zip(*map(self._scratch, group.names, group.parameters), strict=True)
            for target, gradient in zip(used, group.gradients, strict=True):
                target.zero_() if gradient is None else target.copy_(gradient)
            if self._pulls(group):
                anchors, omegas = (
                    [state.anchor[n] for n in group.names],
                    [state.omega[n] for n in group.names],
                )
                c = -group.c if group.maximize else group.c
                add_surrogate_gradients_(used, group.parameters, anchors, omegas, c, work)
            if self._integrates:
                torch._foreach_copy_(work, group.parameters)
            # The optimizer works on the scratch gradient, which it may edit; the task's own stays as it is.
            for parameter, target in zip(group.parameters, used, strict=True):
                parameter.grad = target

    def _look_at(self, options: dict[str, Any], names: list[str]) -> _Group:
        """Read a parameter group, and refuse what cannot be integrated while nothing is changed yet."""
        group = _Group(self._strength(options), bool(options.get("maximize", False)), [], [], [])
        for name in names:
            parameter = self._state.parameters[name]
            gradient = parameter.grad
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

    def _is_in_place(self) -> bool:
        """Whether the optimizer still sees the gradients that it was given; after ``zero_grad`` it does not."""
        return all(
            p.grad is self._used[n] for g in self._under_way or [] for n, p in zip(g.names, g.parameters, strict=True)
        )

    def _pulls(self, group: _Group) -> bool:
        return group.c > 0 and bool(self._state.omega)

    def _scratch(self, name: str, parameter: Tensor) -> tuple[Tensor, Tensor]:
        work, used = self._work.get(name), self._used.get(name)
        anchor = self._state.anchor[name]
        if work is None or work.dtype != anchor.dtype or work.device != anchor.device:
            work = self._work[name] = torch.empty_like(anchor)
        if used is None or used.dtype != parameter.dtype or used.device != parameter.device:
            used = self._used[name] = torch.empty_like(parameter, requires_grad=False)
        return work, used


def _unscale(optimizer: Optimizer) -> None:
    """Divide by the scale that a GradScaler leaves to a fused optimizer, as ``scaler.unscale_`` would have done."""
    scale = getattr(optimizer, "grad_scale", None)
    if scale is None:
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.div_(scale.to(parameter.grad.device))
    vars(optimizer)["grad_scale"] = None  # this is how GradScaler itself says that it was done
