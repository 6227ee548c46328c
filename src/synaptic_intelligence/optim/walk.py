"""One step of an optimizer with synapses inside: who moves, what the kernel or the compiled rule is given, the call."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from synaptic_intelligence import compiled, native
from synaptic_intelligence.errors import SynapseError, warn
from synaptic_intelligence.optim.kind import Kind, Options
from synaptic_intelligence.sharding import local_rows
from synaptic_intelligence.state import State
from synaptic_intelligence.step import Group

_NOTHING: Mapping[Any, Any] = MappingProxyType({})

# What a step moves: its group, its state in the optimizer, itself, its name where it has synapses, and its gradient.
Moving = tuple[Options, dict[str, Any], Tensor, str | None, Tensor]


@final
class Walk:
    """The steps in one pass: each is prepared first, then taken or forgotten.

    Args:
        optimizer: whose parameters move.
        kind: which of torch's it is.
        kept: the synapses, whose tensors are in the optimizer's state.
        compiles: whether torch.compile makes the steps that the kernel cannot take.
    """

    def __init__(self, optimizer: Optimizer, kind: Kind, kept: State, *, compiles: bool) -> None:
        self._optimizer, self._kind, self._kept = optimizer, kind, kept
        self._compiled = compiled.Compiled(kind.rule) if compiles else None
        self._by_kernel = True
        self._plan = native.Plan(kind.rule)
        self._moving: list[Moving] = []
        self._rows: list[native.Row] = []
        self._all_fit = False
        self._may_warn = True

    @property
    def prepared(self) -> bool:
        """Whether a step is prepared and not taken yet."""
        return bool(self._moving)

    def prepare(self, groups: list[Group]) -> bool:
        """Return whether the next step is taken here: where every parameter that moves can be stepped in one pass.

        Raises:
            SynapseError: the optimizer's state was cleared.
        """
        self._refuse_cleared()
        self.forget()
        if all(map(self._kind.known, self._optimizer.param_groups)):
            names = {id(p): n for group in groups for n, p in zip(group.names, group.parameters, strict=True)}
            moving = self._look_at(names)
            unfit = self._first_unfit(moving)
            if unfit is None or self._is_compiled(moving):
                self._moving, self._by_kernel = moving, unfit is None
            elif self._compiled is None:
                self._warn_of_unfit(unfit)
        elif self._compiled is not None:
            self._warn_of_not_compiled("capturable and differentiable steps are torch's own")
        return self.prepared

    def forget(self) -> None:
        """Give up the step that was prepared, if it was not taken."""
        self._moving, self._rows = [], []

    def take(self) -> Tensor:
        """Take the step that was prepared.

        Returns:
            A tensor without dimensions: 1 if an increment of the path was not finite, else 0.
        """
        moving = self._moving
        omega, kind = self._kept.omega, self._kind
        # A learning rate may be a tensor, and on a device: it is read once for each group.
        groups = {
            id(group): {**group, "lr": float(group["lr"])} if isinstance(group["lr"], Tensor) else group
            for group in self._optimizer.param_groups
        }
        settings = [
            kind.begin(groups[id(options)], state, parameter, 2 * options["c"] if omega and name is not None else 0.0)
            for options, state, parameter, name, _ in moving
        ]
        if self._all_fit or not self._by_kernel:
            # The moments anew: some are made when a step begins.
            found = [kind.walked(options, state) for options, state, _, _, _ in moving]
            found = local_rows(found) if self._kept.sharded else found
            rows = [(*row[:5], *moments, row[8]) for row, moments in zip(self._rows, found, strict=True)]
        else:
            # For this step alone, a gradient that lies in other places is copied into the parameter's.
            rows = self._as_rows([(*each[:4], native.like(each[4], each[2])) for each in moving])
        self.forget()
        if self._compiled is not None and not self._by_kernel:
            return self._compiled.run(rows, settings)
        overflow = torch.tensor(int(native.run(kind.rule, rows, settings)))
        torch.autograd.graph.increment_version([parameter for _, _, parameter, _, _ in moving])
        return overflow

    def _is_compiled(self, moving: list[Moving]) -> bool:
        """Return whether torch.compile makes the next step; say, once, what keeps it from that."""
        if self._compiled is None:
            return False
        for row, (options, _, parameter, name, _) in zip(self._rows, moving, strict=True):
            # torch keeps the count of a fused step on the device, where to read it would be to wait for it.
            if options.get("fused") and "step" in self._kind.names and not parameter.is_cpu:
                self._warn_of_not_compiled("with fused=True, as it was loaded or added, the step is torch's own")
                return False
            if not compiled.fits(row):
                self._warn_of_not_compiled(
                    f"{_shown(name, parameter)} ({parameter.dtype}, {type(parameter).__name__}), its gradient and its "
                    "synapses are not all plain tensors of one dtype, float32 or float64"
                )
                return False
        return self._compiled.takes(self._rows)

    def _warn_of_not_compiled(self, why: str) -> None:
        if self._may_warn:
            self._may_warn = False
            warn(f"compiled=True has no effect on these steps: {why} (said once)")

    def _refuse_cleared(self) -> None:
        state = self._optimizer.state
        gone = [name for name, p in self._kept.parameters.items() if "anchor" not in state.get(p, _NOTHING)]
        if gone:
            raise SynapseError(
                f"the state of this optimizer was cleared, and the synapses of {gone} with it: call reset_moments(), "
                "which puts them back and clears the rest"
            )

    def _look_at(self, names: Mapping[int, str]) -> list[Moving]:
        """Return what the next step moves: what has a gradient, or is pulled without one and so has a name here."""
        moving = []
        for options in self._optimizer.param_groups:
            for parameter in options["params"]:
                gradient, name = parameter.grad, names.get(id(parameter))
                if gradient is not None or name is not None:
                    gradient = torch.zeros_like(parameter) if gradient is None else gradient
                    state = self._optimizer.state[parameter]
                    self._kind.make(options, state, parameter)
                    moving.append((options, state, parameter, name, gradient))
        return moving

    def _first_unfit(self, moving: list[Moving]) -> Moving | None:
        """Return the first that the kernel cannot walk over; bring into their places those that lie in others."""
        self._rows = self._as_rows(moving)
        fits = self._plan.fits(self._rows)
        self._all_fit = all(fits)
        pairs = zip(fits, moving, strict=True)
        return (
            None if self._all_fit else next((each for fit, each in pairs if not fit and not self._settled(each)), None)
        )

    def _as_rows(self, moving: list[Moving]) -> list[native.Row]:
        kept, walked = self._kept, self._kind.walked
        wide, coarse = ({}, kept.omega) if kept.coarse else (kept.omega, {})
        held: tuple[Mapping[Any, Tensor], ...] = (kept.path, kept.anchor, wide, coarse)
        path, anchor, omega, half = (named.get for named in held)
        rows: list[native.Row] = [
            (
                *(parameter, gradient, path(name), anchor(name), omega(name)),
                *walked(options, state),
                half(name),
            )
            for options, state, parameter, name, gradient in moving
        ]
        return local_rows(rows) if kept.sharded else rows

    def _settled(self, each: Moving) -> bool:
        """Return whether the kernel can step a parameter; bring into its places what lies in others."""
        _, state, parameter, name, gradient = each
        if not (native.fits(parameter) and native.of_one_kind(gradient, parameter)):
            return False
        kept = self._kept
        beside: list[tuple[dict[str, Any], str]] = [(state, moment) for moment in self._kind.names if moment != "step"]
        beside += [(tensors, name) for tensors in (kept.path, kept.anchor, kept.omega)] if name is not None else []
        for tensors, key in beside:
            tensor = tensors.get(key)
            dtype = torch.bfloat16 if kept.coarse and tensors is kept.omega else None
            if tensor is None or native.alike(tensor, parameter, dtype):
                continue
            if not native.of_one_kind(tensor, parameter, dtype):
                return False
            # As after loading, or when a network was made channels_last.
            tensors[key] = native.like(tensor, parameter)
            kept.tell_replaced()
        return True

    def _warn_of_unfit(self, each: Moving) -> None:
        """Say, once, which tensor keeps the kernel from a step that it would else take."""
        _, _, parameter, name, _ = each
        if not (self._may_warn and parameter.is_cpu):
            return
        if any(not isinstance(native.kernel(dtype), str) for dtype in self._dtypes()):
            self._may_warn = False
            native.warn_of_no_kernel(
                f"it cannot walk over {_shown(name, parameter)}: a view, or another class or dtype (said once)"
            )

    def _dtypes(self) -> set[torch.dtype]:
        return {p.dtype for group in self._optimizer.param_groups for p in group["params"]}


def _shown(name: str | None, parameter: Tensor) -> str:
    return repr(name) if name is not None else f"one of shape {list(parameter.shape)}"
