"""What the optimizers with synapses inside have in common: names, options, state, and the choice of the fast form."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_pre_hooks

from synaptic_intelligence import native
from synaptic_intelligence.arguments import checked_number
from synaptic_intelligence.binding import canonical_parameters
from synaptic_intelligence.checkpoint import SCHEMA, from_state_dict
from synaptic_intelligence.consolidator import Consolidator
from synaptic_intelligence.errors import SynapseError, warn
from synaptic_intelligence.importance import PathIntegral
from synaptic_intelligence.optim.group_path_integral import GroupPathIntegral
from synaptic_intelligence.state import State
from synaptic_intelligence.step import Group, OnePass

_KINDS = ("path", "anchor", "omega")
_PROGRESS = ("tasks", "steps", "untouched")  # options of each group in a state_dict, and there alone


_NOTHING: Mapping[str, Any] = MappingProxyType({})

# What the next step moves: the options of its group, a parameter, its name where it has synapses, and its gradient.
_Moving = tuple[dict[str, Any], Tensor, str | None, Tensor]


class TakenOver:
    """What synapses become that an optimizer has taken over with ``synapses=``: of no use, and they say so."""

    def __getattr__(self, name: str) -> Any:
        """Refuse every member."""
        raise SynapseError("these synapses were taken over by another optimizer: use its own, optimizer.synapses")


class Inside(OnePass, Optimizer):
    """An optimizer of torch with synapses inside: the part that does not depend on which optimizer.

    It stands before torch's class in the bases, so that ``super().step`` is torch's own step: what a parameter takes
    that the kernel cannot step, with the synapses around it as their hooks are.
    """

    moments: ClassVar[tuple[str, ...]]
    """The names under which torch's optimizer keeps its own state of a parameter."""

    needed: ClassVar[tuple[str, ...]]
    """Options of a group without which a state is of another optimizer."""

    synapses: Consolidator
    """The synapses: the same members as :class:`~synaptic_intelligence.Consolidator` has."""

    # Set up.

    def _put_synapses_inside(
        self, c: float, xi: float, synapses: Consolidator | None, omega_dtype: torch.dtype | None
    ) -> None:
        """Make the synapses, or take over those of another optimizer; torch's part is made already."""
        strength, damping = checked_number(c, "c", zero_is_fine=True), PathIntegral(xi).xi
        for group in self.param_groups:
            group.setdefault("c", strength)
            group.setdefault("xi", damping)
            if group["c"] is not None:
                PathIntegral(group["xi"])  # raises where it is no damping; c is looked at by the consolidator
        self.defaults.update(c=strength, xi=damping)
        self._moving: list[_Moving] | None = None  # prepared for a step of the kernel
        self._plan, self._all_fit = native.Plan(self._rule), False
        self._looked_over: list[native.Row] = []
        self._made = False  # moments in the step that is under way
        self._overflow: Tensor | None = None
        # A GradScaler then unscales the gradients, and skips the step, by itself.
        self._step_supports_amp_scaling = False
        on_cpu = {p.dtype for group in self.param_groups for p in group["params"] if p.device.type == "cpu"}
        for dtype in on_cpu:
            native.warn_of_one_thread(dtype)
            if isinstance(found := native.kernel(dtype), str):
                native.warn_of_no_kernel(found)
        self._may_warn = True
        self.named = all("param_names" in group for group in self.param_groups)
        self.register_state_dict_post_hook(_offer, prepend=True)
        group_of = {id(p): i for i, group in enumerate(self.param_groups) for p in group["params"]}
        names = {name: group_of[id(p)] for name, p in canonical_parameters(self._names()).items()}
        importance = GroupPathIntegral(self, names)
        if synapses is None:
            self.synapses = Consolidator(self._names(), self, importance, c=c, omega_dtype=omega_dtype)
            self._places = self.synapses._binding.places
            return
        old, their_optimizer = synapses._snapshot(), synapses._binding.optimizer
        if old.estimator != PathIntegral.name:
            raise SynapseError(
                f"synapses estimate by {old.estimator}; an optimizer with synapses inside integrates the path"
            )
        synapses.detach()
        try:
            self.synapses = Consolidator(self._names(), self, importance, c=c, omega_dtype=omega_dtype)
            self._places = self.synapses._binding.places
            self._kept.take_over(old, self._kept.checked_copies(old, "synapses"))
            for option, was, now in (("c", old.c, strength), ("xi", old.settings["xi"], damping)):
                if was != now:
                    warn(f"{option} of the synapses that are taken over was {was}: now {now}")
        except BaseException:
            if "synapses" in vars(self):
                self.synapses.detach()
            synapses.attach(their_optimizer)
            raise
        # They would go on telling, and saving, what was true until now.
        vars(synapses).clear()
        object.__setattr__(synapses, "__class__", TakenOver)

    def _names(self) -> Iterator[tuple[str, Tensor]]:
        for i, group in enumerate(self.param_groups):
            names = group.get("param_names") or [f"{i}.{j}" for j in range(len(group["params"]))]
            yield from zip(names, group["params"], strict=True)

    def keep(self, state: State) -> None:
        """Hold path, anchor and omega in ``self.state``, as the very tensors that the synapses have."""
        self._kept = state
        state.when_replaced = self._publish
        self._publish()

    def may_keep(self, state: State) -> bool:
        """Return whether these are its own synapses, or it has none yet."""
        return "_kept" not in vars(self) or self._kept is state

    def _kinds(self) -> dict[str, dict[Any, Tensor]]:
        return {"path": self._kept.path, "anchor": self._kept.anchor, "omega": self._kept.omega}

    def _publish(self) -> None:
        held = {id(parameter) for parameter in self._kept.parameters.values()}
        for parameter in [p for p, state in self.state.items() if "anchor" in state and id(p) not in held]:
            del self.state[parameter]  # another took its place
        for name, parameter in self._kept.parameters.items():
            state = self.state[parameter]
            for kind, tensors in self._kinds().items():
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
        self._refuse_cleared()
        names = {id(p): n for group in groups for n, p in zip(group.names, group.parameters, strict=True)}
        moving = self._look_at(names) if self._kernel_knows_options() else []
        self._moving = moving if moving and self._walks(moving) else None
        if moving and self._moving is None and self._may_warn:
            self._warn_of_unfit(moving)
        return self._moving is not None

    def _warn_of_unfit(self, moving: list[_Moving]) -> None:
        """Say, once, which tensors keep the kernel from a step that it would else take."""
        self._may_warn = False
        unfit = [name for _, p, name, gradient in moving if p.is_cpu and not self._settled(p, name, gradient)]
        known = any(not isinstance(native.kernel(parameter.dtype), str) for _, parameter, _, _ in moving)
        if unfit and known:
            native.warn_of_no_kernel(f"it cannot walk over {unfit[:3]}: views, other classes or dtypes (said once)")

    def forget(self) -> None:
        """Give up the step that was prepared, if it was not taken."""
        self._moving, self._looked_over = None, []

    def _refuse_cleared(self) -> None:
        gone = [name for name, p in self._kept.parameters.items() if "anchor" not in self.state.get(p, _NOTHING)]
        if gone:
            raise SynapseError(
                f"the state of this optimizer was cleared, and the synapses of {gone} with it: call reset_moments(), "
                "which puts them back and clears the rest"
            )

    def _look_at(self, names: Mapping[int, str]) -> list[_Moving]:
        """Return what the next step moves: what has a gradient, or is pulled without one and so has a name here."""
        moving = []
        for options in self.param_groups:
            for parameter in options["params"]:
                gradient, name = parameter.grad, names.get(id(parameter))
                if gradient is not None or name is not None:
                    gradient = torch.zeros_like(parameter) if gradient is None else gradient
                    moving.append((options, parameter, name, gradient))
        return moving

    def _walks(self, moving: list[_Moving]) -> bool:
        """Return whether the kernel can walk over all of it; bring into their places what lies in others."""
        self._looked_over = self._rows(moving)
        fits = self._plan.fits(self._looked_over)
        self._all_fit = all(fits)
        return self._all_fit or all(fit or self._settled(*each[1:]) for fit, each in zip(fits, moving, strict=True))

    def _rows(self, moving: list[_Moving]) -> list[native.Row]:
        path, anchor, omega, coarse = (named.get for named in (*self._kinds().values(), _NOTHING))
        omega, coarse = (coarse, omega) if self._kept.coarse else (omega, coarse)
        return [
            (
                *(parameter, gradient, path(name), anchor(name), omega(name)),
                *self._moments(options, self.state.get(parameter, _NOTHING)),
                coarse(name),
            )
            for options, parameter, name, gradient in moving
        ]

    def _settled(self, parameter: Tensor, name: str | None, gradient: Tensor) -> bool:
        """Return whether the kernel can step a parameter; bring into its places what lies in others."""
        if not (native.fits(parameter) and native.of_one_kind(gradient, parameter)):
            return False
        state = self.state.get(parameter, _NOTHING)
        beside: list[tuple[dict[str, Any], str]] = [(state, each) for each in self.moments if each != "step"]
        beside += [(tensors, name) for tensors in self._kinds().values()] if name is not None else []
        for tensors, key in beside:
            tensor = tensors.get(key)
            dtype = torch.bfloat16 if self._kept.coarse and key == name and tensors is self._kept.omega else None
            if tensor is None or native.alike(tensor, parameter, dtype):
                continue
            if not native.of_one_kind(tensor, parameter, dtype):
                return False
            # As after loading, or when a network was made channels_last.
            tensors[key] = _like(tensor, parameter)
            self._publish()
        return True

    @property
    def overflow(self) -> Tensor | None:
        """Whether an increment of the path was not finite in the last step of the kernel."""
        return self._overflow

    @_disable_dynamo
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
        moving, self._moving = self._moving, None
        if moving is None:
            for options in self.param_groups:
                for parameter in options["params"]:
                    if parameter.grad is not None and self.state[parameter]:  # torch makes them where there is nothing
                        self._make_moments(options, parameter)
            # torch hooks into the step of a class once there is an instance of it; the hooks of this step are run.
            step: Any = super().step
            step.__func__.__wrapped__(self) if getattr(step, "hooked", False) else step()
        else:
            with torch.no_grad():
                self._step_in_one_pass(moving)
        return loss

    def _step_in_one_pass(self, moving: list[_Moving]) -> None:
        if len(self._optimizer_step_pre_hooks) > 1 or _global_optimizer_pre_hooks:
            # Other step hooks than the synapses' may have replaced gradients since they were looked over.
            important = self._kept.important
            moving = self._look_at(
                {
                    id(parameter): name
                    for options, parameter, name, _ in moving
                    if name is not None and (parameter.grad is not None or (name in important and options["c"] > 0))
                }
            )
            if not self._walks(moving):
                raise SynapseError(
                    "a step hook of this optimizer has given a parameter or a gradient another dtype or layout: "
                    "change them before the step"
                )
        omega, self._made = self._kept.omega, False
        settings = [
            self._begin(options, parameter, 2 * options["c"] if omega and name is not None else 0.0)
            for options, parameter, name, _ in moving
        ]
        if not self._all_fit:
            # For this step alone, a gradient that lies in other places is copied into the parameter's.
            moving = [(*each[:3], _like(each[3], each[1])) for each in moving]
        rows = self._rows(moving) if self._made or not self._all_fit else self._looked_over
        self._looked_over = []
        self._overflow = torch.tensor(int(native.run(self._rule, rows, settings)))
        torch.autograd.graph.increment_version([parameter for _, parameter, _, _ in moving])

    # What each optimizer says of itself.

    _rule: ClassVar[native.Rule]

    @abstractmethod
    def _kernel_knows_options(self) -> bool:
        """Whether the kernel computes what the options ask for."""

    @abstractmethod
    def _make_moments(self, options: dict[str, Any], parameter: Tensor) -> None:
        """Make what torch's optimizer keeps of a parameter, as it would at the parameter's first step."""

    @abstractmethod
    def _begin(self, options: dict[str, Any], parameter: Tensor, pull: float) -> list[float]:
        """Make a parameter's moments where there are none, count its step, and return the numbers kernel.c takes."""

    @abstractmethod
    def _moments(self, options: dict[str, Any], state: Mapping[str, Any]) -> tuple[Tensor | None, ...]:
        """Return the three moments of a parameter that kernel.c takes."""

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
        self._kept.warn_of_nonfinite()
        progress = {"tasks": self._kept.tasks, "steps": self._kept.steps, "untouched": self._kept.untouched}
        groups = [{**group, **progress} for group in packed["param_groups"]]
        states = dict(packed["state"])
        omega, anchor = self.synapses.omega, self.synapses.anchor  # zeros, and the weights as they are, where need be
        if self._kept.untouched:
            # The anchor still follows the weights, and must not write over what is read into a state that was given.
            anchor = {name: tensor.clone() for name, tensor in anchor.items()}
        named = {id(parameter): name for name, parameter in self._kept.parameters.items()}
        for options, saved in zip(self.param_groups, groups, strict=True):
            for parameter, key in zip(options["params"], saved["params"], strict=True):
                states[key] = {**self._offered_moments(options, parameter), **states.get(key, {})}
                if id(parameter) in named:
                    name = named[id(parameter)]
                    states[key].update(path=self._kept.path[name], anchor=anchor[name], omega=omega[name])
        return {**packed, "state": states, "param_groups": groups}

    @abstractmethod
    def _offered_moments(self, options: dict[str, Any], parameter: Tensor) -> dict[str, Tensor]:
        """Return the moments of a parameter that has made no step."""

    @abstractmethod
    def _lacking(self, options: dict[str, Any], state: Mapping[str, Any]) -> list[str]:
        """Return the moments without which torch would fail on what is loaded for a parameter."""

    def _settle(self, state: dict[str, Any]) -> None:
        """Turn what was offered of a parameter and loaded into what steps work on."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` gave, all of it or nothing; the synapses' tensors keep their dtype.

        ``c`` and ``xi`` are loaded as ``lr`` is, with a warning where they differ. A state without synapses, as torch's
        own optimizer gives it, loads too, with a warning: the synapses then stay as they are.

        Raises:
            SynapseError: the synapses in the state do not fit these parameters, or are damaged.
            ValueError: as torch raises.
        """
        self.synapses._step.abandon()
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
        for state in self.state.values():
            self._settle(state)
        if seen:
            self._kept.take_over(seen["file"], seen["copies"])
            strengths = {group["c"] for group in self.param_groups if group["c"] is not None}
            if len(strengths) == 1:
                self.synapses.c = strengths.pop()
        self._publish()

    def _read(self, given: dict[str, Any]) -> dict[str, Any]:
        """Check what is to be loaded, before anything is changed."""
        saved = given["param_groups"]
        if [len(group["params"]) for group in saved] != [len(group["params"]) for group in self.param_groups]:
            return {}  # torch says what is wrong
        for group, own in zip(saved, self.param_groups, strict=True):
            self._check_moments(group, own, given["state"])
        states = {name: given["state"].get(saved[i]["params"][j], {}) for name, (i, j) in self._places.items()}
        if not any(kind in state for state in states.values() for kind in _KINDS):
            warn("the state that is loaded has no synapses: these stay as they are")
            return {}
        # torch.distributed.checkpoint leaves out what needs no gradient.
        frozen = [name for name, s in states.items() if not s and not self._kept.parameters[name].requires_grad]
        omega, anchor = self.synapses.omega, self.synapses.anchor
        for name in frozen:
            states[name] = {"path": self._kept.path[name], "anchor": anchor[name], "omega": omega[name]}
        progress = {key: saved[0][key] for key in _PROGRESS if key in saved[0]}
        if len(progress) < len(_PROGRESS):
            raise SynapseError(
                f"the state has synapses, but its groups lack {sorted({*_PROGRESS} - {*progress})}: it is not of this "
                "optimizer, or was flattened (flatten_optimizer_state_dict), which cannot carry them"
            )
        for i, (group, own) in enumerate(zip(saved, self.param_groups, strict=True)):
            if (group.get("c") is None) != (own["c"] is None):
                raise SynapseError(f"parameter group {i} has c={own['c']}, and c={group.get('c')} in the state")
            if own["c"] is not None:
                checked_number(group["c"], f"c of parameter group {i} in the state", zero_is_fine=True)
                checked_number(group.get("xi"), f"xi of parameter group {i} in the state", zero_is_fine=False)
        kinds = {kind: {name: s[kind] for name, s in states.items() if kind in s} for kind in _KINDS}
        known = {"schema": SCHEMA, "estimator": PathIntegral.name, "settings": {}, "c": 0.0}
        file = from_state_dict({**known, **progress, **kinds})
        copies = self._kept.checked_copies(file, "the state")
        if frozen:
            warn(f"the state has nothing of {frozen}, which are frozen: their synapses stay as they are")
        for i, (group, own) in enumerate(zip(saved, self.param_groups, strict=True)):
            for option in ("c", "xi"):
                if group.get(option) != own[option]:
                    warn(f"{option} of parameter group {i} is {group.get(option)} in the state, and was {own[option]}")
        return {"file": file, "copies": copies}

    def _check_moments(self, group: dict[str, Any], own: dict[str, Any], states: Mapping[Any, Any]) -> None:
        """Raise a SynapseError where torch would fail half-way, or only at a later step."""
        lacking = [option for option in self.needed if option not in group]
        for key, parameter in zip(group["params"], own["params"], strict=True):
            state = states.get(key, {})
            lacking += self._lacking(group, state)
            for name in self.moments:
                value = state.get(name)
                shape = torch.Size() if name == "step" else parameter.shape
                if isinstance(value, Tensor) and value.shape != shape:
                    raise SynapseError(f"the state has a {name} of shape {list(value.shape)} for one of {list(shape)}")
                if value is not None and not isinstance(value, Tensor) and not (name == "step" and value >= 0):
                    raise SynapseError(f"the state has {name}={value!r}, which cannot be")
        if lacking:
            raise SynapseError(f"the state lacks {sorted(set(lacking))}: it is of another optimizer")

    def __deepcopy__(self, memo: Any) -> Any:
        """Refuse copies: they would lose the synapses without a word."""
        raise TypeError("an optimizer with synapses cannot be copied: make a new one, and load state_dict() into it")

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse pickles, as copies."""
        raise TypeError("an optimizer with synapses cannot be pickled: save its state_dict()")


def _offer(optimizer: Optimizer, packed: dict[str, Any]) -> dict[str, Any]:
    assert isinstance(optimizer, Inside)
    return optimizer._offered(packed)


def _like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return the tensor, or a copy of it in the parameter's places where it lies in others."""
    if native.alike(tensor, parameter, tensor.dtype):
        return tensor
    return torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False).copy_(tensor)


Params = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]
"""What torch's optimizers take: parameters, groups, or named parameters."""
