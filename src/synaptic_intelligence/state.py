"""What the synapses remember: anchor, path and omega of every parameter, and how to keep them true to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter, is_
from typing import Any, final

import torch
from torch import Tensor

from synaptic_intelligence import native
from synaptic_intelligence.arguments import checked_number
from synaptic_intelligence.errors import SynapseError, printable, warn
from synaptic_intelligence.functional import surrogate_loss
from synaptic_intelligence.importance import Importance, TaskEnd
from synaptic_intelligence.importance.estimator import Batches
from synaptic_intelligence.importance_file import ImportanceFile
from synaptic_intelligence.memory import Memory, total_bytes
from synaptic_intelligence.sharding import anywhere, is_placed_like, is_sharded, local, placed_like, whole
from synaptic_intelligence.strength import Strength

Named = dict[str, Tensor]


@final
class State:
    """The tensors of the synapses, by parameter name, and the parameters as they were last seen.

    Attributes:
        parameters: the live parameters.
        anchor: in theta. path: in units of the loss. omega: in loss / theta^2, empty before the first consolidation.
            All float32, or wider for wider parameters.
        important: names with any importance; they are pulled even where they get no gradient.
        tasks: how many tasks were consolidated.
        untouched: no step was taken yet, so the anchor still follows the weights.
        sharded: whether any parameter is; all tensors above are then sharded as their parameters are.
        coarse: whether omega is bfloat16, in half the memory.
        origin: what filled the importance of weights that were trained without synapses, in words; empty: nothing.
        pauses: how many contexts ask that steps pass unseen.
        way_back: what the surrogate loss (at c = 1) of going back over the last task would be, by the omega that it
            added; in units of the loss. None before a task.

    Example:
        >>> state = State({"w": torch.ones(1, dtype=torch.bfloat16)}, integrates_path=True)
        >>> state.anchor["w"], state.path["w"]
        (tensor([1.]), tensor([0.]))
    """

    @torch.no_grad()
    def __init__(self, parameters: Mapping[str, Tensor], *, integrates_path: bool, coarse: bool = False) -> None:
        self.parameters: Named = dict(parameters)
        self.anchor: Named = {name: wide_copy(p, p) for name, p in parameters.items()}
        self.path: Named = {name: torch.zeros_like(a) for name, a in self.anchor.items()} if integrates_path else {}
        self.omega: Named = {}
        self.important: set[str] = set()
        self.coarse = coarse
        self.tasks = 0
        self.way_back: float | None = None
        self.origin = ""
        self.when_replaced: Callable[[], None] | None = None  # told when tensors give way to new ones
        self.untouched = True
        self.sharded = any(map(is_sharded, parameters.values()))
        self.pauses = 0
        self._steps = 0
        # These are counted on the device and read only when somebody asks, so that no step waits for the device.
        device = next(iter(self.anchor.values())).device
        self._skipped = torch.zeros((), dtype=torch.int64, device=device)
        self._nonfinite = torch.zeros((), dtype=torch.int64, device=device)
        self.seen: list[Any] = []  # how all parameters lay at the last look, in a new list where that has changed
        self._versions: dict[str, int] = {}  # of each parameter after the last step; where missing, any will do
        self._warned_of_edit = False

    @property
    def steps(self) -> int:
        """Optimizer steps since the last consolidation that were not skipped; reads from the device."""
        return self._steps - int(self._skipped)

    @property
    def nonfinite_steps(self) -> int:
        """Steps that were not finite since they were last warned of; reads from the device."""
        return int(self._nonfinite)

    @property
    def steps_taken(self) -> int:
        """Optimizer steps since the last consolidation, with those that were skipped; reads nothing from the device."""
        return self._steps

    def omega_or_zeros(self) -> Named:
        """Return omega, zeros before the first consolidation."""
        return self.omega or {
            name: torch.zeros_like(anchor, dtype=self._dtype(anchor)) for name, anchor in self.anchor.items()
        }

    def _rounded(self, omega: Tensor, like: Tensor) -> Tensor:
        dtype = self._dtype(like)
        # What is finite stays finite: the largest float32 would round to infinity.
        return omega.clamp(max=torch.finfo(dtype).max).to(dtype) if dtype != omega.dtype else omega

    def _dtype(self, like: Tensor) -> torch.dtype:
        """Return the dtype of omega."""
        return torch.bfloat16 if self.coarse else like.dtype

    def memory(self, scratch: Iterable[Tensor]) -> Memory:
        """Return what all of this takes, with what steps keep beside it."""
        named = (self.path, self.anchor, self.omega)
        path, anchor, omega = (total_bytes(tensors.values()) for tensors in named)
        count = sum(local(parameter).numel() for parameter in self.parameters.values())
        return Memory(count, path, anchor, omega, total_bytes(scratch))

    def count_step(self, overflow: Tensor | None, skipped: Tensor | None) -> None:
        """Note that a step was taken.

        Args:
            overflow: 1 where an increment of the path was not finite, else 0; None if nothing was integrated.
            skipped: a GradScaler's ``found_inf``, nonzero where the optimizer skipped the step; None without one.
        """
        self._steps += 1
        self.untouched = False
        if skipped is not None:
            happened = (skipped.reshape(()) == 0).to(self._skipped)
            self._skipped += 1 - happened
            overflow = overflow.to(happened) * happened if overflow is not None else None
        if overflow is not None:
            self._nonfinite += overflow.to(self._nonfinite)
        self.accept_weights()

    def accept_weights(self) -> None:
        """Take the weights as they are now for those that the last step left."""
        self._versions = self._versions_now()

    def _versions_now(self) -> dict[str, int]:
        return dict(zip(self.parameters, map(_version, self.parameters.values()), strict=True))

    def accept_any_weights(self) -> None:
        """Take whatever weights the next step finds: others may still be loaded."""
        self._versions = {}

    @torch.no_grad()
    def follow(self, parameters: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Take over parameters that were replaced or moved: all of them, or none.

        Returns:
            Pairs of an old parameter and the new one in its place.

        Raises:
            SynapseError: a parameter has another shape now, or is another one of those that are known.
        """
        kinds = [*map(_kind, parameters.values()), *map(Tensor.is_contiguous, parameters.values())]
        if self._is_as_seen(parameters, kinds):
            return []
        self.refuse_others(parameters)  # first look, then touch
        replaced = [(self.parameters[name], p) for name, p in parameters.items() if p is not self.parameters[name]]
        self.sharded = self.sharded or any(is_sharded(new) for _, new in replaced)
        for name, parameter in parameters.items():
            if parameter is not self.parameters[name]:
                self.parameters[name] = parameter
                self._versions.pop(name, None)
            anchor = self.anchor[name]
            dtype = torch.promote_types(anchor.dtype, parameter.dtype)
            placed = not self.sharded or is_placed_like(anchor, parameter)
            apart = not self.sharded and anchor.is_contiguous() != parameter.is_contiguous()  # as with channels_last
            if parameter.device != anchor.device or dtype != anchor.dtype or apart or not placed:
                self._move(name, parameter, dtype)
            if self.untouched:
                self.anchor[name].copy_(parameter)
        self.parameters = {name: self.parameters[name] for name in parameters}
        self.seen = kinds
        if replaced:
            self.tell_replaced()
        return replaced

    def _is_as_seen(self, parameters: Mapping[str, Tensor], kinds: list[Any]) -> bool:
        """Whether these are the very parameters of the last look, and lie as they lay."""
        return (
            not self.untouched and kinds == self.seen and all(map(is_, parameters.values(), self.parameters.values()))
        )

    def edited(self) -> bool:
        """Whether weights were changed by other hands since the last step."""
        versions = self._versions_now()
        return versions != self._versions and any(
            self._versions.get(name, version) != version for name, version in versions.items()
        )

    def warn_of_low_precision(self) -> None:
        """Warn if parameters have so few digits that most steps do not move them."""
        low = sorted({str(p.dtype) for p in self.parameters.values() if p.dtype.itemsize < 4})
        if low:
            warn(
                f"parameters are {', '.join(low)}: at small learning rates most steps round to no movement, and the "
                "path misses them; keep float32 parameters and use autocast"
            )

    def warn_of_edit(self) -> None:
        """Warn, once, if weights were changed by other hands since the last step; before the first they may be."""
        if not (self._warned_of_edit or self.untouched) and self.edited():
            self._warned_of_edit = True
            warn(
                "weights were changed between optimizer steps; the change is not part of the path, and the anchor "
                "stays: if you loaded other weights, load the synapses' state too (said once)"
            )

    def warn_of_other_weights(self, parameters: Mapping[str, Tensor]) -> None:
        """Warn if parameters in the places of others have other values; before the first step they may.

        A model that is sharded leaves its old parameters without memory, and cannot be asked.
        """
        others = [
            name
            for name, new in parameters.items()
            if new is not (old := self.parameters[name])
            and not (self.untouched or is_sharded(new) or is_sharded(old))
            and not torch.equal(old, new.to(old))
        ]
        if others:
            warn(
                f"the new parameters {others} have other values than those in whose place they are: they are pulled to "
                "where the old ones were; load the weights first, or make new synapses for another model"
            )

    def refuse_and_warn_of_others(self, parameters: Mapping[str, Tensor]) -> None:
        """Raise or warn where parameters are not those that are known, nor what they became."""
        self.refuse_others(parameters)
        self.warn_of_edit()
        self.warn_of_other_weights(parameters)

    def successor(self, file: ImportanceFile, parameters: Mapping[str, Tensor]) -> State:
        """Return a state of other parameters that remembers what surgery has left."""
        state = State(parameters, integrates_path=bool(self.path), coarse=self.coarse)
        state.take_over(file, state.checked_copies(file, "what surgery left"))
        state.pauses = self.pauses
        return state

    def refuse_others(self, parameters: Mapping[str, Tensor]) -> None:
        """Raise a SynapseError unless the parameters can take the places of those that are known."""
        for name, parameter in parameters.items():
            new = parameter is not self.parameters[name]
            if new and any(parameter is other for other in self.parameters.values()):
                raise SynapseError(f"the optimizer holds another known parameter in the place of {name!r}")
            if parameter.shape != self.anchor[name].shape:
                was, now = list(self.anchor[name].shape), list(parameter.shape)
                raise SynapseError(
                    f"parameter {name!r} had shape {was} and has {now} now: make new synapses for it, or say in "
                    "attach(optimizer, named, surgery=...) what was done"
                )

    def warn_of_nonfinite(self) -> None:
        """Warn if steps were not finite since this was last asked; reads from the device."""
        count = int(self._nonfinite)
        if count:
            self._nonfinite.zero_()
            warn(
                f"{count} optimizer steps had gradients or movements that are not finite; those elements added nothing "
                "to the path: look for an overflow in the loss"
            )

    def checked_decay(self, decay: float) -> float:
        """Return a decay of omega, if it is one and omega has the digits to take it.

        Raises:
            TypeError, ValueError: it is no number above 0 and at most 1, or between 1 - 1/128 and 1 where omega is
                bfloat16, which would round to what it was.
        """
        decay = checked_number(decay, "decay", zero_is_fine=False, most=1)
        if self.coarse and 1 - 2**-7 < decay < 1:
            raise ValueError(
                f"decay must be 1, or at most {1 - 2**-7:g}, where omega is bfloat16: not {decay:g}, which rounds away"
            )
        return decay

    def refuse_nonfinite_parameters(self) -> None:
        """Raise a SynapseError that names the parameters that are not finite, if any."""
        refuse_nonfinite(self.parameters, "parameter")

    def estimated(
        self, estimator: Importance, data: Batches | None, *, decay: float = 1.0, weight: float = 1.0
    ) -> Named:
        """Return omega as an estimator gives it now, checked.

        Args:
            estimator: whose importance it is.
            data: what it estimates from.
            decay: what the omega so far is multiplied by before.
            weight: what the new omega is multiplied by after.

        Raises:
            SynapseError: it is not finite, or not of the parameters.
        """
        omega = self.omega_or_zeros()
        if decay != 1:
            omega = {name: tensor.to(self.anchor[name].dtype) * decay for name, tensor in omega.items()}
        found = dict(estimator.new_omega(TaskEnd(self.parameters, self.anchor, self.path, omega, data)))
        if {n: t.shape for n, t in found.items()} != {n: t.shape for n, t in self.anchor.items()}:
            raise SynapseError(f"{estimator.name} did not give an omega of the right shape for every parameter")
        if weight != 1:
            found = {name: tensor * weight for name, tensor in found.items()}
        refuse_nonfinite(found, "new omega of")
        negative = [name for name, tensor in found.items() if anywhere(tensor < 0)]
        if negative:
            raise SynapseError(f"{estimator.name} gave an omega below zero for {negative}; nothing was changed")
        return found

    def bootstrapped(self, estimator: Importance, data: Batches | None, weight: float) -> tuple[Named, str]:
        """Return omega for weights that were trained without synapses, as :meth:`estimated`, and its origin in words.

        Raises:
            SynapseError: it would hold nothing that is trained.
        """
        omega = self.estimated(estimator, data, weight=weight)
        trained = [name for name, parameter in self.parameters.items() if parameter.requires_grad]
        free = [name for name in trained if not anywhere(omega[name] > 0)]
        if free == trained:
            raise SynapseError(
                f"{estimator.name} found nothing important in what is trained, so that nothing would be held: give it "
                "the model that the old data went through, with its own head, data that moves its outputs, and a "
                "weight that does not round to zero"
            )
        if free:
            warn(f"{estimator.name} found nothing important in {free}: nothing holds them")
        settings = [f"{name} = {value}" for name, value in estimator.settings().items()]
        return omega, ", ".join([estimator.name, *settings, f"weight = {weight:g}"])

    @torch.no_grad()
    def end_task(self, omega: Named, *, decay: float = 1.0, origin: str = "") -> Named:
        """Set omega, in which the old is decayed already, and anchor; start a new path; return the one that ended.

        Args:
            omega: of the next task, as :meth:`estimated` or :meth:`bootstrapped` gave it.
            decay: what the omega before it was multiplied by.
            origin: of an omega that was bootstrapped; empty: as it was.
        """
        # First what may fail for want of memory.
        way_back, begun = self._way_back(omega, decay), {name: torch.zeros_like(p) for name, p in self.path.items()}
        ended, self.path, self.way_back, self.origin = self.path, begun, way_back, origin or self.origin
        for name, parameter in self.parameters.items():
            self.anchor[name].copy_(parameter)
        self._begin_task(omega, tasks=self.tasks + 1, steps=0)
        self.accept_weights()
        return ended

    def _way_back(self, omega: Named, decay: float) -> float:
        terms = []
        for name, parameter in self.parameters.items():
            added = omega[name] - decay * self.omega[name] if self.omega else omega[name]
            term = whole(surrogate_loss(parameter.detach(), self.anchor[name], added, 1.0))
            terms.append(term.to(local(self.anchor[name]).device))
        return math.fsum(torch.stack([term.to(terms[0]) for term in terms]).tolist())

    def snapshot(self, estimator: Importance, c: Strength) -> ImportanceFile:
        """Return everything that training goes on from, tensors by reference."""
        self.warn_of_nonfinite()
        return ImportanceFile(
            estimator=estimator.name,
            settings=estimator.settings(),
            c=c,
            tasks=self.tasks,
            steps=self.steps,
            untouched=self.untouched,
            omega=self.omega_or_zeros(),
            anchor=self.anchor,
            path=self.path,
            origin=self.origin,
            way_back=self.way_back,
        )

    @torch.no_grad()
    def checked_copies(self, file: ImportanceFile, what: str, estimator: Importance | None = None) -> dict[str, Named]:
        """Return copies of the tensors that a file or a state holds, on the parameters' devices.

        Raises:
            SynapseError: names or shapes are not those of the parameters, a value cannot be, or the estimator or its
                settings are others than those of ``estimator``.
        """
        if estimator is not None and (file.estimator, file.settings) != (estimator.name, estimator.settings()):
            raise SynapseError(
                f"{what} is of {printable(file.estimator)} with {file.settings}, these synapses are of "
                f"{estimator.name} with {estimator.settings()}: make them alike"
            )
        shapes = {name: anchor.shape for name, anchor in self.anchor.items()}
        copies: dict[str, Named] = {}
        for kind, named in (("omega", file.omega), ("anchor", file.anchor), ("path", file.path)):
            # The path is there exactly if this estimator has one, but for files that were saved between two tasks.
            expected = shapes if kind != "path" or (self.path and (file.steps or named)) else {}
            found = {name: tensor.shape for name, tensor in named.items()}
            if found != expected:
                other = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
                raise SynapseError(f"{what} has {kind} of other names or shapes than the parameters: {other}")
            copies[kind] = {name: wide_copy(named[name], p) for name, p in self.parameters.items() if name in named}
            refuse_nonfinite(copies[kind], f"{what}: {kind} of")  # what is wider there may overflow here
        negative = [name for name, omega in copies["omega"].items() if anywhere(omega < 0)]
        if negative:
            raise SynapseError(f"{what} has an omega below zero for {negative}")
        if not file.tasks and any(anywhere(omega != 0) for omega in copies["omega"].values()):
            raise SynapseError(f"{what} has an omega, but no task was consolidated")
        return copies

    def take_over(self, file: ImportanceFile, copies: dict[str, Named]) -> None:
        """Replace everything by what :meth:`checked_copies` gave; it cannot fail."""
        self.anchor, self.way_back, self.origin = copies["anchor"], file.way_back, file.origin
        if self.path:
            self.path = copies["path"] or {name: torch.zeros_like(a) for name, a in self.anchor.items()}
        self._begin_task(copies["omega"] if file.tasks else {}, tasks=file.tasks, steps=file.steps)
        self._nonfinite.zero_()
        self.untouched = file.untouched
        self._warned_of_edit = False
        self.accept_any_weights()

    def _begin_task(self, omega: Named, *, tasks: int, steps: int) -> None:
        self.omega = {}
        for name in list(omega):  # one by one, so that a wide one is gone before the next is rounded
            self.omega[name] = self._rounded(omega.pop(name), self.anchor[name])
        self.tasks, self._steps, self.untouched = tasks, steps, False
        self._skipped.zero_()
        self.important = {name for name, values in self.omega.items() if anywhere(values != 0)}
        self.tell_replaced()

    def _move(self, name: str, parameter: Tensor, dtype: torch.dtype) -> None:
        device = parameter.device
        for named in (self.anchor, self.path, self.omega):
            if name in named:
                wanted = self._dtype(self.anchor[name]) if named is self.omega else dtype
                moved = placed_like(named[name].to(device, wanted), parameter)
                named[name] = moved if is_sharded(moved) else native.like(moved, parameter)
        self._skipped, self._nonfinite = self._skipped.to(device), self._nonfinite.to(device)
        self._versions.pop(name, None)
        self.tell_replaced()

    def tell_replaced(self) -> None:
        """Tell who holds these tensors too that others took their places."""
        if self.when_replaced is not None:
            self.when_replaced()


_version, _kind = attrgetter("_version"), attrgetter("shape", "dtype", "device")


def wide_copy(values: Tensor, parameter: Tensor) -> Tensor:
    """Return a copy of ``values`` on the parameter's device, sharded as it is, float32 or wider.

    Example:
        >>> wide_copy(torch.ones(1), torch.zeros(1, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    dtype = torch.promote_types(parameter.dtype, torch.float32)
    return torch.empty_like(parameter, dtype=dtype, requires_grad=False).copy_(placed_like(values, parameter))


def refuse_nonfinite(tensors: Mapping[str, Tensor], what: str) -> None:
    """Raise a SynapseError that names the tensors that are not finite, if any.

    Example:
        >>> refuse_nonfinite({"w": torch.ones(1)}, "parameter")
    """
    bad = [name for name, tensor in tensors.items() if anywhere(~tensor.isfinite())]
    if bad:
        raise SynapseError(f"{what} {bad} is not finite; nothing was changed")
