"""The rules of kernel.c once more, over tensors of any device, for torch.compile to make few passes of them.

A rule takes the rows that :func:`synaptic_intelligence.native.run` takes, and for each a row of a table of numbers. The
table lies on their device, so that neither another learning rate nor another step compiles it anew. Without being
compiled the rules do the same, and take longer.

Source: Zenke, Poole, Ganguli, *Continual Learning Through Synaptic Intelligence*, ICML 2017.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, Literal, final

import torch
from torch import Tensor

from synaptic_intelligence.errors import warn
from synaptic_intelligence.native import SLOWER, Row, of_one_kind

Rule = Literal["adam_step", "sgd_step"]

_MOST = 16
"""Sets of tensors for which a step is compiled: in the first task and later, and where gradients come and go."""


def adam_step(rows: Sequence[Row], table: Tensor) -> Tensor:
    """Step each parameter as Adam does, with its pull, and integrate its path.

    Args:
        rows: for each parameter itself, its gradient, path, anchor, omega, the two moments of Adam, the largest second
            moment (amsgrad), and omega once more where it is bfloat16; None where there is none.
        table: a row of numbers for each, as :func:`numbers` gives them.

    Returns:
        A tensor without dimensions: 1 if an increment of a path was not finite, else 0.

    Source: Zenke et al. 2017, eqs. 3 and 4; Kingma, Ba 2015; Reddi et al. 2018 (amsgrad).

    Example:
        >>> theta, gradient, path, m, v = torch.ones(1), torch.ones(1), torch.zeros(1), torch.zeros(1), torch.zeros(1)
        >>> settings = [0.1, 0.9, 0.999, 0.0, 0.0, 1.0, 0.0, 1.0, 1 - 0.9, 1 - 0.999]
        >>> table = torch.tensor([numbers("adam_step", settings)])
        >>> adam_step([(theta, gradient, path, None, None, m, v, None, None)], table)
        tensor(0)
        >>> theta, path
        (tensor([0.9000]), tensor([0.1000]))
    """
    finite = []
    for i, (theta, gradient, path, anchor, omega, first, second, largest, coarse) in enumerate(rows):
        assert theta is not None
        assert gradient is not None
        assert first is not None
        assert second is not None
        rate, beta1, weight1, beta2, weight2, eps, l2, shrink, pull, sign, root = table[i].unbind()
        task = sign * gradient
        used = _pulled(theta, task, anchor, omega, coarse, pull) + l2 * theta
        m = beta1 * first + weight1 * used
        v = beta2 * second + weight2 * used * used
        first.copy_(m)
        second.copy_(v)
        if largest is not None:
            v = torch.maximum(largest, v)
            largest.copy_(v)
        after = shrink * theta - rate * (m / (v.sqrt() * root + eps))
        finite += _integrated_(path, task, theta, after)
        theta.copy_(after)
    return _told(finite, table)


def sgd_step(rows: Sequence[Row], table: Tensor) -> Tensor:
    """Step each parameter as SGD does, with its pull, and integrate its path.

    Args and what is returned as for :func:`adam_step`; the first moment is the momentum, and there are no others.

    Source: Zenke et al. 2017, eqs. 3 and 4; Sutskever et al. 2013 (Nesterov's momentum).

    Example:
        >>> theta, gradient, path = torch.ones(1), torch.ones(1), torch.zeros(1)
        >>> table = torch.tensor([numbers("sgd_step", [0.1, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0])])
        >>> sgd_step([(theta, gradient, path, None, None, None, None, None, None)], table)
        tensor(0)
        >>> theta, path
        (tensor([0.9000]), tensor([0.1000]))
    """
    finite = []
    for i, (theta, gradient, path, anchor, omega, momentum, _, _, coarse) in enumerate(rows):
        assert theta is not None
        assert gradient is not None
        rate, keeps, fresh, nesterov, plain, l2, pull, sign = table[i].unbind()
        task = sign * gradient
        used = _pulled(theta, task, anchor, omega, coarse, pull) + l2 * theta
        if momentum is not None:
            kept = keeps * momentum + fresh * used
            momentum.copy_(kept)
            used = nesterov * used + plain * kept
        after = theta - rate * used
        finite += _integrated_(path, task, theta, after)
        theta.copy_(after)
    return _told(finite, table)


def _pulled(
    theta: Tensor, task: Tensor, anchor: Tensor | None, omega: Tensor | None, coarse: Tensor | None, pull: Tensor
) -> Tensor:
    importance = coarse.to(theta.dtype) if coarse is not None else omega
    if importance is None or anchor is None:
        return task
    return task + pull * importance * (theta - anchor)


def _integrated_(path: Tensor | None, task: Tensor, before: Tensor, after: Tensor) -> list[Tensor]:
    """Add to the path what is finite of this step; return whether all is, where there is a path."""
    if path is None:
        return []
    increment = task * (before - after)
    finite = increment.isfinite()
    path.add_(torch.where(finite, increment, 0.0))
    return [finite.all()]


def _told(finite: list[Tensor], table: Tensor) -> Tensor:
    if not finite:
        return torch.zeros((), dtype=torch.int64, device=table.device)
    return torch.stack(finite).all().logical_not().long()


_RULES: dict[Rule, Callable[[Sequence[Row], Tensor], Tensor]] = {"adam_step": adam_step, "sgd_step": sgd_step}


def numbers(rule: Rule, settings: Sequence[float]) -> list[float]:
    """Return what a rule computes with, of the numbers that the kernel's rule of this name takes.

    Example:
        >>> numbers("sgd_step", [0.1, 0.9, 1.0, 1.0, 0.0, 0.0, 1.0])
        [0.1, 0.9, 1.0, 1.0, 0.9, 0.0, 0.0, 1.0]
    """
    if rule == "sgd_step":
        lr, momentum, fresh, nesterov, l2, pull, sign = settings
        return [lr, momentum, fresh, nesterov, momentum if nesterov else 1.0, l2, pull, sign]
    lr, beta1, beta2, eps, l2, shrink, pull, sign, correction1, correction2 = settings
    root = 1 / math.sqrt(correction2)
    return [lr / correction1, beta1, 1 - beta1, beta2, 1 - beta2, eps, l2, shrink, pull, sign, root]


def fits(row: Row) -> bool:
    """Whether a compiled rule steps this parameter with the numbers that the optimizer and the hooks have.

    Its dtype is float32 or float64: compiled, what is narrower is not rounded on the way, but the path takes the step
    that was stored.

    Example:
        >>> one, half = torch.ones(2), torch.ones(2, dtype=torch.bfloat16)
        >>> fits((one, one, one, None, None, None, None, None, half)), fits((half,) * 9), fits((one,) * 8 + (None,))
        (True, False, True)
    """
    theta, *others, coarse = row
    return (
        theta is not None
        and theta.dtype in (torch.float32, torch.float64)
        and all(of_one_kind(each, theta) for each in (theta, *others) if each is not None)
        and (coarse is None or of_one_kind(coarse, theta, torch.bfloat16))
    )


@final
class Compiled:
    """A rule that is compiled at its first call, and anew for tensors of other shapes, or where others are missing.

    Where compiling fails it says so, once, and takes that step uncompiled; from then on it takes no other.

    Args:
        rule: its name.

    Example:
        >>> one = torch.ones(2)
        >>> Compiled("adam_step").takes([(one, one, one, None, None, one, one, None, None)])
        True
    """

    def __init__(self, rule: Rule) -> None:
        self._rule: Rule = rule
        self._runs: dict[Any, Callable[[Sequence[Row], Tensor], Tensor]] = {}  # for each set of tensors
        self._failed = False
        self._told_of_many = False

    def takes(self, rows: Sequence[Row]) -> bool:
        """Return whether the step of these tensors, which all fit, is compiled, or is to be."""
        if self._failed or len(self._runs) < _MOST or all(_set(some) in self._runs for some in _by_kind(rows).values()):
            return not self._failed
        if not self._told_of_many:
            self._told_of_many = True
            warn(
                f"{SLOWER}: gradients come and go, and each set of them would be compiled: {_MOST} are, and the steps "
                "of others are not"
            )
        return False

    def run(self, rows: Sequence[Row], settings: Sequence[Sequence[float]]) -> Tensor:
        """Do what the rule says to all tensors; arguments as :func:`synaptic_intelligence.native.run` has them.

        Returns:
            A tensor without dimensions: 1 if an increment of a path was not finite, else 0.
        """
        numbered = [(*row, numbers(self._rule, each)) for row, each in zip(rows, settings, strict=True)]
        found = []
        for (device, dtype), some in _by_kind(numbered).items():
            table = _on(device, torch.tensor([each[-1] for each in some], dtype=dtype, device="cpu"))
            found.append(self._step([_with_dimensions(each[:-1]) for each in some], table))
        return torch.stack([each.to(found[0].device) for each in found]).amax()

    def _step(self, rows: list[Row], table: Tensor) -> Tensor:
        rule, which = _RULES[self._rule], _set(rows)
        if not self._failed:
            run = self._runs.get(which) or self._runs.setdefault(which, _compile(rule))
            try:
                return run(rows, table)
            except _failures() as error:  # before anything is computed
                self._failed = True
                self._runs.clear()
                why = getattr(error, "inner_exception", error)
                first = (str(why).strip().splitlines() or [type(why).__name__])[0]
                warn(f"{SLOWER}: its compiled step was given up: {first}")
        return rule(rows, table)


def _by_kind(rows: Sequence[Any]) -> dict[tuple[torch.device, torch.dtype], list[Any]]:
    found: dict[tuple[torch.device, torch.dtype], list[Any]] = {}
    for row in rows:
        found.setdefault((row[0].device, row[0].dtype), []).append(row)
    return found


def _set(rows: Sequence[Row]) -> Any:
    """Return what tells sets of tensors apart for which code of their own is compiled.

    Not the tensors: those of a sharded network are others in each step.
    """
    return tuple((None if row[0] is None else (row[0].shape or (1,)), *(t is None for t in row)) for row in rows)


def _on(device: torch.device, table: Tensor) -> Tensor:
    # From pinned memory nobody waits for the copy.
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table.to(device)


def _with_dimensions(row: Row) -> Row:
    """Return tensors of at least one dimension: torch 2.13 loses what is written into a scalar of the CPU, silently."""
    return tuple(tensor if tensor is None or tensor.ndim else tensor.view(1) for tensor in row)


def _compile(rule: Any, backend: Any = "inductor") -> Callable[[Sequence[Row], Tensor], Tensor]:
    """Return the rule to be compiled, with code of its own: how often one piece of code is compiled is limited."""
    own = FunctionType(rule.__code__.replace(), rule.__globals__, rule.__name__)
    return torch.compile(own, fullgraph=True, dynamic=False, backend=backend)


def _failures() -> tuple[type[Exception], ...]:
    from torch._dynamo import exc

    return exc.TorchDynamoException, getattr(exc, "FailOnRecompileLimitHit", exc.TorchDynamoException)
