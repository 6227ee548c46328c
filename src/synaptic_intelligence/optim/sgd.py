"""SGD with the synapses inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from synaptic_intelligence import native
from synaptic_intelligence.consolidator import Consolidator
from synaptic_intelligence.optim.inside import Inside, Params

_NOT_YET = "momentum_not_yet"  # in a state_dict alone


@final
class SGD(Inside, torch.optim.SGD):
    """``torch.optim.SGD`` with the synapses inside: one pass over memory for each step.

    Takes what ``torch.optim.SGD`` takes, and ``c``, ``xi``, ``synapses`` and ``omega_dtype`` as
    :class:`~synaptic_intelligence.optim.Adam` does.

    Source: Zenke, Poole, Ganguli 2017; Sutskever et al. 2013 (Nesterov's momentum).

    Example:
        >>> import torch, synaptic_intelligence as si
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = si.optim.SGD(model.named_parameters(), lr=0.1, momentum=0.9, c=0.1, xi=0.1)
        >>> model(torch.ones(1, 2)).sum().backward()
        >>> optimizer.step()
        >>> all(bool((path > 0).all()) for path in optimizer.synapses.path.values())
        True
    """

    moments = ("momentum_buffer",)
    needed = ("momentum", "dampening")
    _rule: ClassVar[native.Rule] = "sgd_step"

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        c: float,
        xi: float,
        synapses: Consolidator | None = None,
        omega_dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov, **options)
        self._put_synapses_inside(c, xi, synapses, omega_dtype)

    def _kernel_knows_options(self) -> bool:
        return not any(group["differentiable"] for group in self.param_groups)

    def _make_moments(self, options: dict[str, Any], parameter: Tensor) -> None:
        """Do nothing: the first step makes the buffer, which then is the gradient."""

    def _offered_moments(self, options: dict[str, Any], parameter: Tensor) -> dict[str, Tensor]:
        if not options["momentum"]:
            return {}
        offered = {"momentum_buffer": torch.zeros_like(parameter, requires_grad=False)}
        if options["dampening"]:
            # The first gradient is not dampened, so a buffer of zeros differs from one that is not there yet.
            there = self.state.get(parameter, {}).get("momentum_buffer") is not None
            offered[_NOT_YET] = torch.tensor(0.0 if there else 1.0)
        return offered

    def _lacking(self, options: dict[str, Any], state: Mapping[str, Any]) -> list[str]:
        return []

    def _settle(self, state: dict[str, Any]) -> None:
        if state.pop(_NOT_YET, None):
            state.pop("momentum_buffer", None)

    def _moments(self, options: dict[str, Any], state: Mapping[str, Any]) -> tuple[Tensor | None, ...]:
        return (state.get("momentum_buffer") if options["momentum"] else None), None, None

    def _begin(self, options: dict[str, Any], parameter: Tensor, pull: float) -> list[float]:
        state, fresh = self.state[parameter], 1 - options["dampening"]
        if options["momentum"] and state.get("momentum_buffer") is None:
            state["momentum_buffer"], self._made = torch.zeros_like(parameter, requires_grad=False), True
            fresh = 1.0  # torch does not dampen the first gradient
        return [
            *(float(options["lr"]), options["momentum"], fresh, float(options["nesterov"])),
            *(float(options["weight_decay"]), pull, -1.0 if options["maximize"] else 1.0),
        ]
