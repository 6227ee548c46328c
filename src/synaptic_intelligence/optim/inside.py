"""What the optimizers with synapses inside have in common: names, options, state, and the choice of the fast form."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from synaptic_intelligence import native
from synaptic_intelligence.arguments import checked_number
from synaptic_intelligence.checkpoint import ImportanceFile
from synaptic_intelligence.consolidator import Consolidator
from synaptic_intelligence.errors import SynapseError, warn
from synaptic_intelligence.importance import PathIntegral
from synaptic_intelligence.optim.group_path_integral import GroupPathIntegral
from synaptic_intelligence.state import State
from synaptic_intelligence.step import Group, OnePass

_KINDS = ("path", "anchor", "omega")
_PROGRESS = ("tasks", "steps", "untouched")  # options of each group in a state_dict, and there alone


class Inside(OnePass, Optimizer):
    """An optimizer of torch with synapses inside: the part that does not depend on which optimizer.

    It stands before torch's class in the bases, so that ``super().step`` is torch's own step: what a parameter takes
    that the kernel cannot step, with the synapses around it as their hooks are.
    """

    moments: ClassVar[tuple[str, ...]]
    """The names under which torch's optimizer keeps its own state of a parameter."""

    synapses: Consolidator
    """The synapses: the same members as :class:`~synaptic_intelligence.Consolidator` has."""

    # Set up.

    def _put_synapses_inside(self, c: float, xi: float, synapses: Consolidator | None) -> None:
        """Make the synapses, or take over those of another optimizer; torch's part is made already."""
        self._groups: list[Group] | None = None
        self._overflow: Tensor | None = None
        # A GradScaler then unscales the gradients, and skips the step, by itself.
        self._step_supports_amp_scaling = False
        on_cpu = {p.dtype for group in self.param_groups for p in group["params"] if p.device.type == "cpu"}
        for reason in [found for dtype in on_cpu if isinstance(found := native.kernel(dtype), str)]:
            native.warn_of_no_kernel(reason)
        self.defaults.update(c=checked_number(c, "c", zero_is_fine=True), xi=PathIntegral(xi).xi)
        for group in self.param_groups:
            group.setdefault("c", self.defaults["c"])
            group.setdefault("xi", self.defaults["xi"])
        self.named = all("param_names" in group for group in self.param_groups)
        self.register_state_dict_post_hook(_offer, prepend=True)
        if synapses is None:
            self.synapses = Consolidator(self._names(), self, GroupPathIntegral(self), c=c)
            return
        old, their_optimizer = synapses._snapshot(), synapses._binding.optimizer
        if old.estimator != PathIntegral.name:
            raise SynapseError(
                f"synapses estimate by {old.estimator}; an optimizer with synapses inside integrates the path"
            )
        synapses.detach()
        try:
            self.synapses = Consolidator(self._names(), self, GroupPathIntegral(self), c=c)
            self._kept.take_over(old, self._kept.checked_copies(old, "synapses"))
        except BaseException:
            if "synapses" in vars(self):
                self.synapses.detach()
            synapses.attach(their_optimizer)
            raise

    def _names(self) -> Iterator[tuple[str, Tensor]]:
        for i, group in enumerate(self.param_groups):
            names = group.get("param_names") or [f"{i}.{j}" for j in range(len(group["params"]))]
            yield from zip(names, group["params"], strict=True)

    def keep(self, state: State) -> None:
        """Hold path, anchor and omega in ``self.state``, as the very tensors that the synapses have."""
        self._kept = state
        state.when_replaced = self._publish
        self._publish()

    def _publish(self) -> None:
        kinds = {"path": self._kept.path, "anchor": self._kept.anchor, "omega": self._kept.omega}
        for name, parameter in self._kept.parameters.items():
            state = self.state[parameter]
            for kind, tensors in kinds.items():
                if name in tensors:
                    state[kind] = tensors[name]
                else:
                    state.pop(kind, None)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as torch does; once there are synapses, only one without: ``c=None``.

        Raises:
            SynapseError: the parameters of the group would have synapses.
        """
        if "synapses" in vars(self) and param_group.get("c", 0.0) is not None:
            raise SynapseError(
                "a parameter group that comes later has no synapses: add it with c=None, or make a new optimizer of "
                "all parameters"
            )
        super().add_param_group(param_group)

    # A step.

    def prepare(self, groups: list[Group]) -> bool:
        """Return whether the kernel takes the next step: where it can step every parameter that moves."""
        gone = [name for name, p in self._kept.parameters.items() if "anchor" not in self.state.get(p, {})]
        if gone:
            raise SynapseError(
                f"the state of this optimizer was cleared, and the synapses of {gone} with it: call reset_moments(), "
                "which puts them back and clears the rest"
            )
        pulled = [parameter for group in groups for parameter in group.parameters if parameter.grad is None]
        moving = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        one_pass = self._kernel_knows_options() and all(self._fits(parameter) for parameter in [*pulled, *moving])
        self._groups = groups if one_pass else None
        return one_pass

    def _fits(self, parameter: Tensor) -> bool:
        gradient, state = parameter.grad, self.state.get(parameter, {})
        beside = [state[name] for name in (*_KINDS, *self.moments) if name != "step" and name in state]
        return (
            native.fits(parameter)
            and (
                gradient is None
                or native.alike(gradient, parameter)
                or native.alike(_like(gradient, parameter), parameter)
            )
            and all(native.alike(tensor, parameter) for tensor in beside if tensor is not None)
        )

    @property
    def overflow(self) -> Tensor | None:
        """Whether an increment of the path was not finite in the last step of the kernel."""
        return self._overflow

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step, with the synapses' pull, and integrate their path.

        Args:
            closure: computes the loss and its gradient anew; optional.

        Returns:
            What the closure returns.

        Raises:
            SynapseError: the optimizer's state was cleared.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups, self._groups = self._groups, None
        if groups is None:
            for options in self.param_groups:
                for parameter in options["params"]:
                    if parameter.grad is not None and self.state[parameter]:  # torch makes them where there is nothing
                        self._make_moments(options, parameter)
            super().step()
        else:
            with torch.no_grad():
                self._step_in_one_pass(groups)
        return loss

    def _step_in_one_pass(self, groups: list[Group]) -> None:
        pulled = {
            id(parameter): (name, gradient)
            for group in groups
            for name, parameter, gradient in zip(group.names, group.parameters, group.gradients, strict=True)
        }
        tensors: list[list[Tensor | None]] = []
        settings: list[list[float]] = []
        moved: list[Tensor] = []
        for options in self.param_groups:
            for parameter in options["params"]:
                name, gradient = pulled.get(id(parameter), (None, parameter.grad))
                if name is None and gradient is None:
                    continue
                if gradient is None:
                    gradient = torch.zeros_like(parameter)  # there is importance, so that the pull alone moves it
                self._make_moments(options, parameter)
                state = self.state[parameter]
                kinds = [state.get(kind) if name is not None else None for kind in _KINDS]
                pull = 2 * options["c"] if kinds[2] is not None else 0.0
                moments, numbers = self._share(options, parameter, pull)
                tensors.append([parameter, _like(gradient, parameter), *kinds, *moments])
                settings.append(numbers)
                moved.append(parameter)
        self._overflow = torch.tensor(int(native.run(self._rule, tensors, settings)))
        torch.autograd.graph.increment_version(moved)

    # What each optimizer says of itself.

    _rule: ClassVar[native.Rule]

    @abstractmethod
    def _kernel_knows_options(self) -> bool:
        """Whether the kernel computes what the options ask for."""

    @abstractmethod
    def _make_moments(self, options: dict[str, Any], parameter: Tensor) -> None:
        """Make what torch's optimizer keeps of a parameter, as it would at the parameter's first step."""

    @abstractmethod
    def _share(
        self, options: dict[str, Any], parameter: Tensor, pull: float
    ) -> tuple[list[Tensor | None], list[float]]:
        """Return a parameter's three moments and the numbers that kernel.c takes for it; count the step."""

    # Tasks.

    def consolidate(self) -> Mapping[str, Tensor]:
        """End a task: as :meth:`Consolidator.consolidate <synaptic_intelligence.Consolidator.consolidate>`."""
        return self.synapses.consolidate()

    def reset_moments(self) -> None:
        """Forget the moments, as a fresh optimizer has none, and keep the synapses.

        Example: see the class.
        """
        for state in self.state.values():
            for name in self.moments:
                state.pop(name, None)
        self._publish()

    # State.

    def _offered(self, packed: dict[str, Any]) -> dict[str, Any]:
        """Return a state_dict with all that there may be: distributed checkpointing reads only what is offered."""
        progress = {"tasks": self._kept.tasks, "steps": self._kept.steps, "untouched": self._kept.untouched}
        groups = [{**group, **progress} for group in packed["param_groups"]]
        states = dict(packed["state"])
        named = {id(parameter): name for name, parameter in self._kept.parameters.items()}
        omega, anchor = self.synapses.omega, self.synapses.anchor  # zeros, and the weights as they are, where need be
        for options, saved in zip(self.param_groups, groups, strict=True):
            for parameter, key in zip(options["params"], saved["params"], strict=True):
                if id(parameter) in named:
                    name = named[id(parameter)]
                    kinds = {"path": self._kept.path[name], "anchor": anchor[name], "omega": omega[name]}
                    states[key] = {**self._offered_moments(options, parameter), **states.get(key, {}), **kinds}
        return {**packed, "state": states, "param_groups": groups}

    @abstractmethod
    def _offered_moments(self, options: dict[str, Any], parameter: Tensor) -> dict[str, Tensor]:
        """Return the moments of a parameter that has made no step."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` gave, all of it or nothing; the synapses' tensors keep their dtype.

        ``c`` and ``xi`` are loaded as ``lr`` is, with a warning where they differ. A state without synapses, as torch's
        own optimizer gives it, loads too, with a warning: the synapses then stay as they are.

        Raises:
            SynapseError: the synapses in the state do not fit these parameters, or are damaged.
            ValueError: as torch raises.
        """
        seen: dict[str, Any] = {}

        # The last hook, as others may change what is loaded; torch then casts all tensors to the parameters' dtype.
        def look(_: Optimizer, given: dict[str, Any]) -> None:
            seen.update(self._read(given))

        handle = self.register_load_state_dict_pre_hook(look)
        before = [(group["c"], group["xi"]) for group in self.param_groups]
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        for group, (c, xi) in zip(self.param_groups, before, strict=True):
            group.setdefault("c", c)
            group.setdefault("xi", xi)
            for name in _PROGRESS:
                group.pop(name, None)
        if seen:
            self._kept.take_over(seen["file"], seen["copies"])
        self._publish()

    def _read(self, given: dict[str, Any]) -> dict[str, Any]:
        """Check what is to be loaded, before anything is changed."""
        saved = given["param_groups"]
        if [len(group["params"]) for group in saved] != [len(group["params"]) for group in self.param_groups]:
            return {}  # torch says what is wrong
        keys = {
            id(parameter): key
            for group, own in zip(saved, self.param_groups, strict=True)
            for key, parameter in zip(group["params"], own["params"], strict=True)
        }
        states = {name: given["state"].get(keys[id(p)], {}) for name, p in self._kept.parameters.items()}
        if not any(kind in state for state in states.values() for kind in _KINDS):
            warn("the state that is loaded has no synapses: these stay as they are")
            return {}
        for i, (group, own) in enumerate(zip(saved, self.param_groups, strict=True)):
            for option in ("c", "xi"):
                if group.get(option) != own[option]:
                    warn(f"{option} of parameter group {i} is {group.get(option)} in the state, and was {own[option]}")
        first = saved[0]
        lacking = [option for option in _PROGRESS if option not in first]
        if lacking:
            raise SynapseError(f"the state has synapses, but its groups lack {lacking}: it is not of this optimizer")
        file = ImportanceFile(
            estimator=PathIntegral.name,
            settings={},
            c=0.0,
            tasks=first["tasks"],
            steps=first["steps"],
            untouched=first["untouched"],
            **{kind: {name: s[kind] for name, s in states.items() if kind in s} for kind in _KINDS},
        )
        return {"file": file, "copies": self._kept.checked_copies(file, "the state")}

    def __deepcopy__(self, memo: Any) -> Any:
        """Refuse copies: they would lose the synapses without a word."""
        raise TypeError("an optimizer with synapses cannot be copied: make a new one, and load state_dict() into it")

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse pickles, as copies."""
        raise TypeError("an optimizer with synapses cannot be pickled: save its state_dict()")


def _offer(optimizer: Optimizer, packed: dict[str, Any]) -> dict[str, Any]:
    assert isinstance(optimizer, Inside)
    return optimizer._offered(packed)


def _like(gradient: Tensor, parameter: Tensor) -> Tensor:
    """Return the gradient with the parameter's strides, where it is an ordinary one."""
    if gradient.layout is not torch.strided or gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter, requires_grad=False).copy_(gradient)


Params = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]
"""What torch's optimizers take: parameters, groups, or named parameters."""
