"""What the optimizers with synapses inside have in common: names, options, tasks; walk.py steps, saving.py saves."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.optim import Optimizer

from synaptic_intelligence import native
from synaptic_intelligence.arguments import checked_number
from synaptic_intelligence.binding import canonical_parameters
from synaptic_intelligence.consolidator import Consolidator
from synaptic_intelligence.errors import SynapseError, warn
from synaptic_intelligence.importance import PathIntegral
from synaptic_intelligence.optim.group_path_integral import GroupPathIntegral
from synaptic_intelligence.optim.kind import Kind
from synaptic_intelligence.optim.saving import NOTED, PROGRESS, checked, offered
from synaptic_intelligence.optim.walk import Walk
from synaptic_intelligence.state import State
from synaptic_intelligence.step import Group, OnePass
from synaptic_intelligence.surgery import Surgery

Params = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]
"""What torch's optimizers take: parameters, groups, or named parameters."""


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

    synapses: Consolidator
    """The synapses: the same members as :class:`~synaptic_intelligence.Consolidator` has."""

    @property
    @abstractmethod
    def kind(self) -> Kind:
        """Which of torch's optimizers it is."""

    # Set up.

    def _put_synapses_inside(
        self,
        c: float,
        xi: float,
        synapses: Consolidator | None,
        surgery: Surgery | None,
        omega_dtype: torch.dtype | None,
        *,
        compiled: bool,
    ) -> None:
        """Make the synapses, or take over those of another optimizer; torch's part is made already."""
        if compiled and "step" in self.kind.names:
            for group in self.param_groups:
                if group.get("fused") and not all(p.is_cpu for p in group["params"]):
                    raise ValueError(
                        "compiled=True takes the place of fused=True, with which the count of steps lies on the "
                        "device, and each step would wait to read it: give one of them"
                    )
        self._compiles = compiled
        strength, damping = checked_number(c, "c", zero_is_fine=True), PathIntegral(xi).xi
        for group in self.param_groups:
            group.setdefault("c", strength)
            group.setdefault("xi", damping)
            if group["c"] is not None:
                PathIntegral(group["xi"])  # raises where it is no damping; c is looked at by the consolidator
        self.defaults.update(c=strength, xi=damping)
        self._overflow: Tensor | None = None
        # A GradScaler then unscales the gradients, and skips the step, by itself.
        self._step_supports_amp_scaling = False
        for dtype in {p.dtype for group in self.param_groups for p in group["params"] if p.device.type == "cpu"}:
            native.warn_of_one_thread(dtype)
            if isinstance(found := native.kernel(dtype), str) and not compiled:
                native.warn_of_no_kernel(found)
        self.named = all("param_names" in group for group in self.param_groups)
        group_of = {id(p): i for i, group in enumerate(self.param_groups) for p in group["params"]}
        names = {name: group_of[id(p)] for name, p in canonical_parameters(self._names()).items()}
        importance = GroupPathIntegral(self, names)
        make = partial(Consolidator, self._names(), self, importance, c=c, omega_dtype=omega_dtype)
        if synapses is not None:
            self._take_over(synapses, surgery, make, strength, damping)
        elif surgery is not None:
            raise TypeError("surgery says what changed since synapses=... were made: give both")
        else:
            self.synapses = make()
        self.register_state_dict_post_hook(_offer, prepend=True)

    def _take_over(
        self,
        synapses: Consolidator,
        surgery: Surgery | None,
        make: Callable[[], Consolidator],
        strength: float,
        damping: float,
    ) -> None:
        theirs, their_optimizer, estimator = synapses._state, synapses._binding.optimizer, synapses.importance
        if estimator.name != PathIntegral.name:
            raise SynapseError(
                f"synapses estimate by {estimator.name}; an optimizer with synapses inside integrates the path"
            )
        if theirs.pauses:
            raise SynapseError("these synapses are paused: let the context of paused() end before they are taken over")
        old = synapses._snapshot() if surgery is None else None
        synapses.detach()
        try:
            self.synapses = make()
            if surgery is not None:
                before = synapses._binding.common_strength(synapses._c)
                old = surgery.attached(theirs, self._kept.parameters, self, estimator, before)
            assert old is not None
            self._kept.take_over(old, self._kept.checked_copies(old, "synapses"))
            self.synapses._observed.take_from(synapses._observed)
            options: list[tuple[str, object, object]] = [("c", old.c, strength), ("xi", old.settings["xi"], damping)]
            was, now = (torch.bfloat16 if state.coarse else None for state in (theirs, self._kept))
            options.append(("omega_dtype", was, now))
            for option, given, own in options:
                if given != own:
                    warn(f"{option} of the synapses that are taken over was {given}: now {own}")
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
        self._kept, self._walk = state, Walk(self, self.kind, state, compiles=self._compiles)
        state.when_replaced = self._publish
        self._publish()

    def may_keep(self, state: State) -> bool:
        """Return whether these are its own synapses, or it has none yet."""
        return "_kept" not in vars(self) or self._kept is state

    def _publish(self) -> None:
        held = {id(parameter) for parameter in self._kept.parameters.values()}
        for parameter in [p for p, state in self.state.items() if "anchor" in state and id(p) not in held]:
            del self.state[parameter]  # another took its place
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
        """Return whether the next step is taken in one pass: where every parameter that moves can be."""
        return self._walk.prepare(groups)

    def forget(self) -> None:
        """Give up the step that was prepared, if it was not taken."""
        self._walk.forget()

    @property
    def overflow(self) -> Tensor | None:
        """Whether an increment of the path was not finite in the last step in one pass."""
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
        if self._walk.prepared:
            with torch.no_grad():
                self._overflow = self._walk.take()
            return loss
        for options in self.param_groups:
            for parameter in options["params"]:
                if parameter.grad is not None and self.state[parameter]:  # torch makes them where there is nothing
                    self.kind.make(options, self.state[parameter], parameter)
        # torch hooks into the step of a class once there is an instance of it; the hooks of this step are run.
        step: Any = super().step
        step.__func__.__wrapped__(self) if getattr(step, "hooked", False) else step()
        return loss

    # Tasks.

    def consolidate(self, *, decay: float = 1.0) -> Mapping[str, Tensor]:
        """End a task: as :meth:`Consolidator.consolidate <synaptic_intelligence.Consolidator.consolidate>`."""
        return self.synapses.consolidate(decay=decay)

    def reset_moments(self) -> None:
        """Forget the moments, as a fresh optimizer has none, and keep the synapses.

        Example: see the class.
        """
        for state in self.state.values():
            for name in self.kind.names:
                state.pop(name, None)
        self._publish()

    # State.

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` gave, all of it or nothing; the synapses' tensors keep their dtype.

        ``c`` and ``xi`` are loaded as ``lr`` is, with a warning where they differ. A state without synapses, as torch's
        own optimizer gives it, loads too, with a warning: the synapses then stay as they are.

        Raises:
            SynapseError: the synapses in the state do not fit these parameters, or are damaged.
            ValueError: as torch raises.
        """
        self.synapses._step.abandon()
        found = []
        loading = ExitStack()  # puts the trigger back if loading fails

        # The last hook, as others may change what is loaded; torch then casts all tensors to the parameters' dtype.
        def look(_: Optimizer, given: dict[str, Any]) -> None:
            found.append(checked(self, self.kind, self._kept, self.synapses, given))
            entry = {"trigger": given["param_groups"][0].get("trigger")}
            loading.enter_context(self.synapses._observed.loading(entry))

        handle = self.register_load_state_dict_pre_hook(look)
        before = [(group["c"], group["xi"]) for group in self.param_groups]
        try:
            with loading:
                super().load_state_dict(state_dict)
        finally:
            handle.remove()
        for group, (c, xi) in zip(self.param_groups, before, strict=True):
            group.setdefault("c", c)
            group.setdefault("xi", xi)
            for name in (*PROGRESS, *NOTED, "trigger"):
                group.pop(name, None)
        for state in self.state.values():
            self.kind.settle(state)
        if found[0] is not None:
            self._kept.take_over(*found[0])
            strengths = {group["c"] for group in self.param_groups if group["c"] is not None}
            if len(strengths) == 1:
                self.synapses.c = strengths.pop()
        self._publish()

    def __deepcopy__(self, memo: Any) -> Any:
        """Refuse copies: they would lose the synapses without a word."""
        raise TypeError("an optimizer with synapses cannot be copied: make a new one, and load state_dict() into it")

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse pickles, as copies."""
        raise TypeError("an optimizer with synapses cannot be pickled: save its state_dict()")


def _offer(optimizer: Optimizer, packed: dict[str, Any]) -> dict[str, Any]:
    assert isinstance(optimizer, Inside)
    anchor = optimizer.synapses.anchor  # before the first step it follows the weights
    state = offered(optimizer, optimizer.kind, optimizer._kept, anchor, packed)
    state["param_groups"][0].update(optimizer.synapses._observed.state())
    return state
