"""Importance by the sensitivity of the outputs: memory aware synapses, which need no labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from synaptic_intelligence.importance.estimator import TaskEnd
from synaptic_intelligence.importance.per_sample import checked_chunk_size, mean_over_samples


@final
class MAS:
    """Importance is the mean size of the gradient of one sample's squared output, summed over tasks.

    Inputs alone count: data is batches of (inputs, targets) as for all estimators, and the targets are not used. Omega
    is in units of the output's square over theta, not of the loss over theta^2, so that ``c`` is another than for the
    path integral and Fisher. Outputs of minus infinity, as logits that are masked out, do not count. The model is
    evaluated in eval mode; its training flags, buffers and all random state stay as they were. Where several processes
    train it, the data of all counts, as with :class:`~synaptic_intelligence.Fisher`.

    Args:
        model: the network whose parameters are protected; called with a batch of inputs, it returns a tensor.
        chunk_size: samples whose gradients are held at the same time, so memory is ``chunk_size`` times the parameters.
            Those of linear layers that take one row of each sample are held as two factors, far smaller, where that is
            found to be right (docs/cost.md).

    Raises:
        ValueError: ``chunk_size`` is not a positive whole number.

    Source: Aljundi et al. 2018, *Memory Aware Synapses: Learning what (not) to forget*, eq. 3, with the squared L2
    norm of the output as in their section 4.1.

    Example:
        >>> import torch, synaptic_intelligence as si
        >>> model = torch.nn.Linear(4, 3)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> synapses = si.Consolidator(model.named_parameters(), optimizer, si.MAS(model), c=0.1)
        >>> data = [(torch.randn(8, 4), torch.zeros(8))]  # the zeros stand for targets
        >>> _ = synapses.consolidate(data)
        >>> synapses.omega["weight"].shape
        torch.Size([3, 4])
    """

    name: ClassVar[str] = "mas"
    needs_data: ClassVar[bool] = True
    integrates_path: ClassVar[bool] = False

    def __init__(self, model: nn.Module, *, chunk_size: int = 64) -> None:
        self.model, self.chunk_size = model, checked_chunk_size(chunk_size)

    def settings(self) -> dict[str, float | str]:
        """Return nothing: ``chunk_size`` does not change the numbers."""
        return {}

    def new_omega(self, end: TaskEnd) -> dict[str, Tensor]:
        """Return omega plus the mean size of the gradients of the squared output, for each parameter.

        Raises:
            SynapseError: a protected parameter is not in the model, or the data is empty.
            TypeError: the data is not batches of (inputs, targets).
            ValueError: the model returns something else than a tensor.
        """
        found = mean_over_samples(
            end, self.model, _squared_norm, torch.abs, _once, chunk_size=self.chunk_size, estimator="MAS"
        )
        return {name: omega + found[name] for name, omega in end.omega.items()}


def _squared_norm(output: Any, _: Tensor) -> Tensor:
    if not isinstance(output, Tensor):
        raise ValueError(f"MAS needs a model that returns one tensor, not {type(output).__name__}: wrap it in one")
    return output.masked_fill(output == -torch.inf, 0).square().sum()


def _once(_: nn.Module, x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the targets, which nobody looks at, and the weight one for each sample."""
    yield y, torch.ones(len(x), device=x.device)
