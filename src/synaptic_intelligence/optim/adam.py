"""Adam and AdamW with the synapses inside."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from synaptic_intelligence.consolidator import Consolidator
from synaptic_intelligence.optim.inside import Inside, Params
from synaptic_intelligence.optim.kind import Kind, Moments, Options
from synaptic_intelligence.surgery import Surgery

_NAMES = ("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")


def _known(options: Options) -> bool:
    return not (options["differentiable"] or options["capturable"])


def _make(options: Options, state: dict[str, Any], parameter: Tensor) -> None:
    if "step" not in state:
        state.update(_offered(options, state, parameter))


def _begin(options: Options, state: dict[str, Any], parameter: Tensor, pull: float, *, decoupled: bool) -> list[float]:
    if not state["step"].is_cpu:
        state["step"] = state["step"].cpu()  # loaded from there: to read it would make each step wait for the device
    step, lr, decay = state["step"].item() + 1, options["lr"], options["weight_decay"]
    state["step"].fill_(step)
    # Before torch 2.7 this was no option, but the difference of the two classes.
    (beta1, beta2), decoupled = options["betas"], options.get("decoupled_weight_decay", decoupled)
    return [
        *(lr, beta1, beta2, options["eps"]),
        0.0 if decoupled else decay,
        1 - lr * decay if decoupled else 1.0,
        pull,
        -1.0 if options["maximize"] else 1.0,
        1 - beta1**step,
        1 - beta2**step,
    ]


def _walked(options: Options, state: Moments) -> tuple[Tensor | None, ...]:
    # What is not there raises, as it does in torch.
    return state["exp_avg"], state["exp_avg_sq"], state["max_exp_avg_sq"] if options["amsgrad"] else None


def _offered(options: Options, state: Moments, parameter: Tensor) -> dict[str, Tensor]:
    at = parameter.device if options["capturable"] or options["fused"] else torch.device("cpu")
    dtype = torch.float64 if torch.get_default_dtype() == torch.float64 and not options["fused"] else torch.float32
    names = _NAMES[1 : 4 if options["amsgrad"] else 3]
    zeros = {name: torch.zeros_like(parameter, requires_grad=False) for name in names}
    return {"step": torch.zeros((), dtype=dtype, device=at), **zeros}


def _lacking(options: Options, state: Moments) -> list[str]:
    return [name for name in _NAMES[: 4 if options.get("amsgrad") else 3] if name not in state] if state else []


def _settle(state: dict[str, Any]) -> None:
    """Do nothing: what is offered is what steps work on."""


_ADAM = Kind(
    rule="adam_step",
    names=_NAMES,
    needed=("betas", "eps"),
    known=_known,
    make=_make,
    begin=partial(_begin, decoupled=False),
    walked=_walked,
    offered=_offered,
    lacking=_lacking,
    settle=_settle,
)


@final
class Adam(Inside, torch.optim.Adam):
    """``torch.optim.Adam`` with the synapses inside: one pass over memory for each step.

    Takes what ``torch.optim.Adam`` takes, and gives the same steps as one that
    :class:`~synaptic_intelligence.Consolidator` watches.

    Args:
        params: ``model.named_parameters()``, or ``model.parameters()``, or groups. Without names a parameter is called
            ``group.index``, and ``synapses.save`` refuses.
        c: strength of the pull, without unit; an option of each group, ``None`` for one without synapses.
        xi: damping, in theta^2; an option of each group.
        synapses: those of another optimizer, which are taken over, and taken off it.
        surgery: what was done to the model since those were made, if it has other parameters, or of other shapes.
        omega_dtype: as for :class:`~synaptic_intelligence.Consolidator`: ``torch.bfloat16`` halves omega's memory.
        compiled: whether torch.compile makes the step where the kernel of the CPU cannot take it, as on other devices.
            It takes tens of seconds at the first step, and at the first of the second task.

    On the CPU the step is compiled at first use, once for a machine. Without a C compiler, and on other devices, unless
    ``compiled``, and for parameters that are not float32 or float64, or with ``capturable`` or ``differentiable``,
    torch's own step is taken, with the synapses around it.

    Raises:
        TypeError, ValueError, SynapseError: as torch's Adam and :class:`~synaptic_intelligence.Consolidator`.
        ValueError: ``compiled`` with ``fused`` on another device than the CPU.

    Source: Zenke, Poole, Ganguli 2017; Kingma, Ba 2015, *Adam*; Reddi et al. 2018 (amsgrad).

    Example:
        >>> import torch, synaptic_intelligence as si
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = si.optim.Adam(model.named_parameters(), lr=1e-3, c=0.1, xi=0.1)
        >>> for target in (1.0, -1.0):  # two tasks
        ...     for _ in range(5):
        ...         optimizer.zero_grad()
        ...         (model(torch.ones(1, 2)) - target).square().sum().backward()
        ...         optimizer.step()
        ...     path = optimizer.consolidate()
        ...     optimizer.reset_moments()  # as a fresh Adam for each task
        >>> sorted(optimizer.synapses.omega)
        ['bias', 'weight']
    """

    kind = _ADAM

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        c: float,
        xi: float,
        synapses: Consolidator | None = None,
        surgery: Surgery | None = None,
        omega_dtype: torch.dtype | None = None,
        compiled: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, **options)
        self._put_synapses_inside(c, xi, synapses, surgery, omega_dtype, compiled=compiled)


@final
class AdamW(Inside, torch.optim.AdamW):
    """``torch.optim.AdamW`` with the synapses inside: :class:`Adam` with a weight decay of its own.

    Takes what ``torch.optim.AdamW`` takes, and ``c``, ``xi``, ``synapses``, ``surgery``, ``omega_dtype`` and
    ``compiled`` as :class:`Adam` does.

    Source: Zenke, Poole, Ganguli 2017; Loshchilov, Hutter 2019, *Decoupled Weight Decay Regularization*.

    Example:
        >>> import torch, synaptic_intelligence as si
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = si.optim.AdamW(model.named_parameters(), lr=1e-3, c=0.1, xi=0.1)
        >>> optimizer.synapses.c
        0.1
    """

    kind = replace(_ADAM, begin=partial(_begin, decoupled=True))

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        c: float,
        xi: float,
        synapses: Consolidator | None = None,
        surgery: Surgery | None = None,
        omega_dtype: torch.dtype | None = None,
        compiled: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, **options)
        self._put_synapses_inside(c, xi, synapses, surgery, omega_dtype, compiled=compiled)
