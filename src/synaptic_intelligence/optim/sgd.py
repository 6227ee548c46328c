"""SGD with the synapses inside."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from synaptic_intelligence.consolidator import Consolidator
from synaptic_intelligence.optim.inside import Inside, Params
from synaptic_intelligence.optim.kind import Kind, Moments, Options
from synaptic_intelligence.surgery import Surgery

_NOT_YET = "momentum_not_yet"  # in a state_dict alone


def _known(options: Options) -> bool:
    return not options["differentiable"]


def _make(options: Options, state: dict[str, Any], parameter: Tensor) -> None:
    """Do nothing: torch's first step makes the buffer, which then is the gradient."""


def _begin(options: Options, state: dict[str, Any], parameter: Tensor, pull: float) -> list[float]:
    fresh = 1 - options["dampening"]
    if options["momentum"] and state.get("momentum_buffer") is None:
        state["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)
        fresh = 1.0  # torch does not dampen the first gradient
    return [
        *(options["lr"], options["momentum"], fresh, float(options["nesterov"])),
        *(float(options["weight_decay"]), pull, -1.0 if options["maximize"] else 1.0),
    ]


def _walked(options: Options, state: Moments) -> tuple[Tensor | None, ...]:
    return (state.get("momentum_buffer") if options["momentum"] else None), None, None


def _offered(options: Options, state: Moments, parameter: Tensor) -> dict[str, Tensor]:
    if not options["momentum"]:
        return {}
    offered = {"momentum_buffer": torch.zeros_like(parameter, requires_grad=False)}
    if options["dampening"]:
        # The first gradient is not dampened, so a buffer of zeros differs from one that is not there yet.
        offered[_NOT_YET] = torch.tensor(0.0 if state.get("momentum_buffer") is not None else 1.0)
    return offered


def _lacking(options: Options, state: Moments) -> list[str]:
    return []


def _settle(state: dict[str, Any]) -> None:
    if state.pop(_NOT_YET, None) or state.get("momentum_buffer") is None:
        state.pop("momentum_buffer", None)


_SGD = Kind(
    rule="sgd_step",
    names=("momentum_buffer",),
    needed=("momentum", "dampening"),
    known=_known,
    make=_make,
    begin=_begin,
    walked=_walked,
    offered=_offered,
    lacking=_lacking,
    settle=_settle,
)


@final
class SGD(Inside, torch.optim.SGD):
    """``torch.optim.SGD`` with the synapses inside: one pass over memory for each step.

    Takes what ``torch.optim.SGD`` takes, and ``c``, ``xi``, ``synapses``, ``surgery``, ``omega_dtype`` and
    ``compiled`` as :class:`~synaptic_intelligence.optim.Adam` does.

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

    kind = _SGD

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
        surgery: Surgery | None = None,
        omega_dtype: torch.dtype | None = None,
        compiled: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov, **options)
        self._put_synapses_inside(c, xi, synapses, surgery, omega_dtype, compiled=compiled)
