"""Importance by the path integral over a short trajectory on copies: for weights whose training nobody has seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call

from synaptic_intelligence.arguments import checked_number
from synaptic_intelligence.errors import SynapseError
from synaptic_intelligence.functional import consolidated_omega, path_increment
from synaptic_intelligence.importance.data import bare, batches, group_of, in_turn, reshard, undisturbed
from synaptic_intelligence.importance.estimator import TaskEnd
from synaptic_intelligence.importance.per_sample import names_in, places_of, refuse_no_samples, wide
from synaptic_intelligence.sharding import is_sharded

Loss = Callable[[Tensor, Tensor], Tensor]


@final
class ShortPath:
    """Importance is the path integral over one pass of plain SGD on the data, which leaves the weights unchanged.

    The steps are taken on copies, by all parameters that require gradients; those that are protected are measured.
    Omega is what ``SynapticIntelligence`` with SGD of this rate gives over the same batches in the same order, in eval
    mode. The model's training flags, buffers and gradients and all random state stay as they were. In DDP (give the
    wrapped model) the data of all processes counts: each of them goes over all batches in turn.

    Args:
        model: the network whose parameters are protected; called with a batch of inputs.
        loss: ``loss(output, target)`` of a batch, such as ``F.cross_entropy``.
        lr: rate of SGD, in theta^2 / loss. Omega grows with it and with the number of batches: the path is ``lr`` times
            the sum of the squared gradients of batches.
        xi: damping, in theta^2, as for the path integral. A short way is mostly below it.

    Raises:
        TypeError: ``lr`` or ``xi`` is not a number.
        ValueError: one of them is not positive and finite.

    Source: Zenke et al. 2017, eqs. 3 and 5, as the authors implement them.

    Example:
        >>> import torch, torch.nn.functional as F, synaptic_intelligence as si
        >>> model = torch.nn.Linear(4, 3)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> short_path = si.ShortPath(model, F.cross_entropy, lr=0.01, xi=1e-3)
        >>> synapses = si.Consolidator(model.named_parameters(), optimizer, short_path, c=0.1)
        >>> _ = synapses.consolidate([(torch.randn(8, 4), torch.randint(3, (8,))) for _ in range(5)])
        >>> synapses.omega["weight"].shape
        torch.Size([3, 4])
    """

    name: ClassVar[str] = "short_path"
    needs_data: ClassVar[bool] = True
    integrates_path: ClassVar[bool] = False

    def __init__(self, model: nn.Module, loss: Loss, *, lr: float, xi: float) -> None:
        self.model, self.loss = model, loss
        self.lr = checked_number(lr, "lr", zero_is_fine=False)
        self.xi = checked_number(xi, "xi", zero_is_fine=False)

    def settings(self) -> dict[str, float | str]:
        """Return ``lr`` and ``xi``."""
        return {"lr": self.lr, "xi": self.xi}

    def new_omega(self, end: TaskEnd) -> dict[str, Tensor]:
        """Return ``relu(omega + path / (moved^2 + xi))`` for each parameter, of path and movement of the copies.

        Raises:
            SynapseError: parameters are sharded, a protected one is not in the model, the data is empty, or the copies
                have run off to what is not finite.
            TypeError: the data is not batches of (inputs, targets).
        """
        model = bare(self.model)
        reshard(model)
        if any(map(is_sharded, [*end.parameters.values(), *model.parameters()])):
            raise SynapseError(
                "parameters are sharded, and ShortPath takes its steps on whole copies: use Fisher(model, loss, "
                "kind=...) instead"
            )
        group = group_of(self.model)
        own = names_in(model, end.parameters, "ShortPath")
        live = {place: parameter.detach() for place, parameter in model.named_parameters()}
        moved = {place: live[place].to(wide(p)) for place, p in model.named_parameters() if p.requires_grad}
        path = {place: torch.zeros_like(live[place], dtype=wide(live[place])) for place in own.values()}
        step, samples = _Gradients(model, self.loss), 0
        places = places_of(step, {name: p for name, p in model.named_parameters() if name in moved})
        with undisturbed(model, group), torch.enable_grad():
            for x, y in in_turn(batches(end.data), group):
                if not len(x):
                    continue  # the mean of nothing is no number
                copies = {place: now.to(live[place].dtype).detach().requires_grad_() for place, now in moved.items()}
                inside = {place: copies[name] for place, name in places.items()}
                gradients = functional_call(step, inside, (x, y, list(copies.values())), tie_weights=False)
                for place, g in zip(copies, gradients, strict=True):
                    if g is not None:
                        before, g = moved[place], g.to(moved[place].dtype)
                        moved[place] = before - self.lr * g
                        if place in path:
                            path[place] += path_increment(g, moved[place] - before)
                samples += len(x)
        refuse_no_samples(samples)
        if not all(bool(now.isfinite().all()) for now in moved.values()):
            raise SynapseError(
                f"the short path has run off to what is not finite: take a lower lr than {self.lr}, unless the loss of "
                "the first batch was not finite already"
            )
        found = {
            name: consolidated_omega(end.omega[name], path[place], moved.get(place, live[place]) - live[place], self.xi)
            for name, place in own.items()
        }
        if group is not None:  # all have taken the same way, but perhaps not to the last bit
            for omega in found.values():
                dist.broadcast(omega, dist.get_global_rank(group, 0), group=group)
        return found


@final
class _Gradients(nn.Module):
    """The gradients of a batch's loss, by backward while copies stand in: a checkpointed model runs once more in it."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, x: Tensor, y: Tensor, copies: list[Tensor]) -> Sequence[Tensor | None]:
        loss = self.loss(self.model(x), y)
        return torch.autograd.grad(loss, copies, allow_unused=True) if loss.requires_grad else [None] * len(copies)
