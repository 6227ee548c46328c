"""Importance by the diagonal of the Fisher information: elastic weight consolidation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn

from synaptic_intelligence.importance.estimator import TaskEnd
from synaptic_intelligence.importance.per_sample import checked_chunk_size, mean_over_samples, wide

Loss = Callable[[Tensor, Tensor], Tensor]
Kind = Literal["exact", "empirical"]


@final
class Fisher:
    """Importance is the mean square of the gradient of one sample's log-likelihood, summed over tasks.

    With ``kind="exact"`` the labels are drawn from the model itself: all classes are summed, weighted by their
    softmax probability. With ``kind="empirical"`` they are the data's. Gradients are per sample, never of a batch's
    mean. The model is evaluated in eval mode; its training flags, buffers and all random state stay as they were.
    Where several processes train it, the data of all counts, and each is given its part. In DDP (give the wrapped
    model) they estimate side by side; sharded by FSDP2, they take one sample at a time together: slow.

    Args:
        model: the network whose parameters are protected; called with a batch of inputs.
        loss: ``loss(output, target)``, the negative log-likelihood of a batch, such as ``F.cross_entropy``.
        kind: ``"exact"`` (needs outputs ``[samples, classes]`` that are logits) or ``"empirical"``.
        chunk_size: samples whose gradients are held at the same time, so memory is ``chunk_size`` times the parameters.
            Those of linear layers that take one row of each sample are held as two factors, far smaller, where that is
            found to be right (docs/cost.md).

    Raises:
        ValueError: ``kind`` is unknown, or ``chunk_size`` is not a positive whole number.

    In the terms of Kirkpatrick et al., ``c = lambda / 2``.

    Source: Kirkpatrick et al. 2017, *Overcoming catastrophic forgetting in neural networks*, eq. 3; summed over tasks
    with one anchor as in Huszar 2018, *Note on the quadratic penalties in elastic weight consolidation*.

    Example:
        >>> import torch, torch.nn.functional as F, synaptic_intelligence as si
        >>> model = torch.nn.Linear(4, 3)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> fisher = si.Fisher(model, F.cross_entropy, kind="exact")
        >>> synapses = si.Consolidator(model.named_parameters(), optimizer, fisher, c=1.0)
        >>> data = [(torch.randn(8, 4), torch.randint(3, (8,)))]  # or a DataLoader
        >>> _ = synapses.consolidate(data)
        >>> synapses.omega["weight"].shape
        torch.Size([3, 4])
    """

    name: ClassVar[str] = "fisher"
    needs_data: ClassVar[bool] = True
    integrates_path: ClassVar[bool] = False

    def __init__(self, model: nn.Module, loss: Loss, *, kind: Kind, chunk_size: int = 64) -> None:
        if kind not in ("exact", "empirical"):
            raise ValueError(f"kind must be 'exact' or 'empirical', not {kind!r}")
        self.model, self.loss, self.kind, self.chunk_size = model, loss, kind, checked_chunk_size(chunk_size)

    def settings(self) -> dict[str, float | str]:
        """Return ``kind``; ``chunk_size`` does not change the numbers."""
        return {"kind": self.kind}

    def new_omega(self, end: TaskEnd) -> dict[str, Tensor]:
        """Return omega plus the diagonal Fisher of this task's data, for each parameter.

        Raises:
            SynapseError: a protected parameter is not in the model, or the data is empty.
            TypeError: the data is not batches of (inputs, targets), or the loss is no tensor.
            ValueError: ``kind="exact"`` and the outputs are not ``[samples, classes]``, or the loss is several numbers
                for one sample.
        """
        found = mean_over_samples(
            end, self.model, self.loss, torch.square, self._labels, chunk_size=self.chunk_size, estimator="Fisher"
        )
        return {name: omega + found[name] for name, omega in end.omega.items()}

    def _labels(self, model: nn.Module, x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield labels for the samples, and the weight of each."""
        if self.kind == "empirical":
            yield y, torch.ones(len(x), device=x.device)
            return
        with torch.no_grad():
            output = model(x)
        if not isinstance(output, Tensor) or output.ndim != 2:
            shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"kind='exact' needs logits [samples, classes], the model gave {shape}: use kind='empirical'"
            )
        for label, weight in enumerate(output.to(wide(output)).softmax(dim=1).unbind(dim=1)):
            if bool(weight.any()):  # classes that are masked out have no probability, and an infinite loss
                yield torch.full((len(x),), label, device=x.device), weight
