"""The compiled form of a step on the CPU: builds kernel.c once for a machine, and calls it with lists of tensors."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from array import array
from collections.abc import Callable, Sequence
from importlib.resources import files
from itertools import chain, compress
from operator import attrgetter, not_
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor

from synaptic_intelligence.errors import warn

_REAL = {
    torch.float32: ("-DREAL=float", "-DSQRT=sqrtf", "-DFABS=fabsf", "-DLARGEST=3.402823466e38f"),
    torch.float64: ("-DREAL=double", "-DSQRT=sqrt", "-DFABS=fabs", "-DLARGEST=1.7976931348623157e308"),
}
# Rounding stays that of each operation, but for fused multiply-adds; nothing here lets sums be taken in another order.
_FLAGS = (
    *("-std=c11", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
    *(("-mprefer-vector-width=512",) if platform.machine() in ("x86_64", "AMD64") else ()),
)

SLOWER = "the optimizer steps in several passes over memory, which is slower, with the same numbers"

Rule = Literal["adam_step", "sgd_step", "pull", "integrate_all"]

# How many tensors and numbers each rule takes for a parameter: one too few, and all that follow would be misread.
_FIELDS: dict[Rule, tuple[int, int]] = {
    "adam_step": (9, 10),
    "sgd_step": (9, 7),
    "pull": (7, 1),
    "integrate_all": (4, 1),
}

# Which of the tensors a rule cannot do without: an address of 0 in their place would end the process.
_NEEDED: dict[Rule, tuple[int, ...]] = {
    "adam_step": (0, 1, 5, 6),
    "sgd_step": (0, 1),
    "pull": (0, 4),
    "integrate_all": (0, 1, 2, 3),
}

# The last tensor of these rules is an omega in bfloat16; all others are of the parameter's dtype.
_COARSE: tuple[Rule, ...] = ("adam_step", "sgd_step", "pull")


@functools.cache
def kernel(dtype: torch.dtype) -> ctypes.CDLL | str:
    """Return the compiled kernel for parameters of this dtype, or why there is none.

    It is built at first use and kept in the user's cache folder (``XDG_CACHE_HOME``), for this compiler and processor.
    What is there is loaded if it is whole, and if nobody else could have written it.

    Example:
        >>> kernel(torch.bfloat16)
        'parameters are torch.bfloat16, not float32 or float64'
    """
    if dtype not in _REAL:
        return f"parameters are {dtype}, not float32 or float64"
    found = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if found is None:
        return "no C compiler (cc, gcc or clang) is on the path; the variable CC names another"
    try:
        return ctypes.CDLL(str(_built(shlex.split(found), dtype)))  # CC may hold options too, as "ccache gcc" does
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout or "").strip().splitlines() or [f"exit status {error.returncode}"]
        return f"{found} failed: {said[0]}"
    except (OSError, RuntimeError, ValueError) as error:  # no such program, or no home folder, or quotes in CC
        return str(error)


@functools.cache
def warn_of_no_kernel(reason: str) -> None:
    """Warn, once for each reason, that steps take several passes over memory.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn_of_no_kernel("an example")
        ...     warn_of_no_kernel("an example")
        >>> len(caught)
        1
    """
    warn(f"{SLOWER}: {reason}")


@functools.cache
def warn_of_one_thread(dtype: torch.dtype) -> None:
    """Warn, once, if the kernel leaves the other threads of torch idle.

    Example:
        >>> warn_of_one_thread(torch.bfloat16)  # there is no kernel at all
    """
    found = kernel(dtype)
    if not isinstance(found, str) and torch.get_num_threads() > 1 and not found.shares_work():
        warn("the compiled step has one thread, as the compiler knows no OpenMP: the variable CC names another")


def _run(command: Sequence[str], folder: str | None = None) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True, errors="replace", cwd=folder)
    return done.stdout


def _built(compiler: list[str], dtype: torch.dtype) -> Path:
    source = files("synaptic_intelligence").joinpath("kernel.c").read_text("utf-8")
    version = _run([*compiler, "--version"])
    key = "\n".join([source, *compiler, version, *_FLAGS, *_REAL[dtype], platform.machine(), _processor()])
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "synaptic-intelligence"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _refuse_others(folder)
    name = f"step-{_digest(key.encode())}"
    for built in folder.glob(f"{name}-*.so"):
        _refuse_others(built)
        if built.name == f"{name}-{_digest(built.read_bytes())}.so":
            return built
        built.unlink(missing_ok=True)  # damaged: to load it could end the process
    with tempfile.TemporaryDirectory(dir=folder) as work:
        (Path(work) / "kernel.c").write_text(source, "utf-8")
        command = [*compiler, *_FLAGS, *_REAL[dtype], "-shared", "-fPIC", "-o", "step.so", "kernel.c", "-lm"]
        try:
            _run([*command, "-fopenmp"], work)
        except subprocess.CalledProcessError:
            # Apple's compiler has no OpenMP: one thread, and otherwise the same.
            _run(command, work)
        made = Path(work) / "step.so"
        made.chmod(0o700)
        built = folder / f"{name}-{_digest(made.read_bytes())}.so"
        os.replace(made, built)  # whole or not at all, whoever else builds it
    return built


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _refuse_others(path: Path) -> None:
    """Raise where another user could have put code into a folder or a file."""
    if sys.platform != "win32":
        about = path.stat()
        if about.st_uid != os.getuid() or about.st_mode & 0o022:
            raise OSError(
                f"{path} is another user's, or others may write to it, so it is not loaded: chmod go-w {path}, or name "
                "another folder in XDG_CACHE_HOME"
            )


def _processor() -> str:
    """Return what the processor can do: a home folder may be shared by machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def fits(tensor: Tensor) -> bool:
    """Whether there is a kernel that can step this parameter: it walks over plain memory of the CPU.

    Example:
        >>> fits(torch.ones(2)), fits(torch.ones(2, 2)[:, 0]), fits(torch.ones(2, dtype=torch.bfloat16))
        (True, False, False)
    """
    return (
        type(tensor) in _PLAIN
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not tensor.is_neg()
        and not isinstance(kernel(tensor.dtype), str)
        and (tensor.is_contiguous() or (tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)))
        and _has_memory(tensor)
    )


def alike(tensor: Tensor, parameter: Tensor, dtype: torch.dtype | None = None) -> bool:
    """Whether the kernel can walk over a tensor together with a parameter that fits: the same places, the same dtype.

    Args:
        tensor: any.
        parameter: one that :func:`fits`.
        dtype: that of the tensor, where it is not the parameter's.

    Example:
        >>> alike(torch.ones(2, 3), torch.ones(2, 3)), alike(torch.ones(3, 2).T, torch.ones(2, 3))
        (True, False)
    """
    # Strides of dimensions of one element say nothing: autograd and empty_like choose them freely.
    return of_one_kind(tensor, parameter, dtype) and (
        tensor.stride() == parameter.stride()
        or (tensor.is_contiguous() and parameter.is_contiguous())
        or (tensor.ndim == 4 and all(t.is_contiguous(memory_format=torch.channels_last) for t in (tensor, parameter)))
    )


def like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return the tensor, or a copy of it in the parameter's places where it lies in others.

    Example:
        >>> like(torch.ones(3, 2).T, torch.ones(2, 3)).stride()
        (3, 1)
    """
    if alike(tensor, parameter, tensor.dtype):
        return tensor
    return torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False).copy_(tensor)


def of_one_kind(tensor: Tensor, parameter: Tensor, dtype: torch.dtype | None = None) -> bool:
    """Whether a copy of a tensor in the parameter's places holds the same numbers, and is :func:`alike`.

    Example:
        >>> of_one_kind(torch.ones(3, 2).T, torch.ones(2, 3)), of_one_kind(torch.ones(2).double(), torch.ones(2))
        (True, False)
    """
    return (
        tensor.dtype == (dtype or parameter.dtype)
        and tensor.layout is torch.strided
        and tensor.shape == parameter.shape
        and tensor.device == parameter.device
        and type(tensor) in _PLAIN
        and not tensor.is_neg()  # of such a view memory holds the negative
        and _has_memory(tensor)
    )


def _has_memory(tensor: Tensor) -> bool:
    """Whether there is something at its address: zeros that torch never writes have none, nor has a freed storage."""
    return tensor.data_ptr() != 0 or tensor.numel() == 0


@final
class Plan:
    """Which rows of tensors the kernel can walk over, remembered for as long as they lie where they lay.

    Looking over how the tensors of a row lie to each other takes longer than the step of a small one. It is done again
    where the address, size, places, dtype or class of any is another than at the last look. Of the gradients, which
    most loops make anew for each step, the address may be any.

    Example:
        >>> parameter, gradient, path, before = torch.ones(2), torch.ones(2), torch.zeros(2), torch.zeros(2)
        >>> plan = Plan("integrate_all")
        >>> plan.fits([(parameter, gradient, path, before)]) == [fits(parameter)]
        True
        >>> plan.fits([(parameter, gradient, path, torch.zeros(3))])
        [False]
    """

    __slots__ = ("_fits", "_found", "_rule")

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._found: list[Any] | None = None
        self._fits: list[bool] = []

    def fits(self, rows: Sequence[Row]) -> list[bool]:
        """Return of each row whether its first tensor :func:`fits`, and all others, where there are any, are alike.

        Args:
            rows: for each parameter: itself, its gradient, and what is kept beside them, as the rule takes them; None
                where there is none.
        """
        if not rows:
            return []
        found = _look(rows)
        if found is None or found != self._found:
            self._fits = [_row_fits(row, self._rule) for row in rows]
            self._found = found
        return self._fits


Row = tuple[Tensor | None, ...]
"""A parameter, its gradient, and what is kept beside them; None where there is none."""

_PLAIN = (Tensor, torch.nn.Parameter)
_KNOWN = {Tensor, torch.nn.Parameter, type(None)}
_layout, _dtype, _on_cpu = attrgetter("layout"), attrgetter("dtype"), attrgetter("is_cpu")


def _look(rows: Sequence[Row]) -> list[Any] | None:
    """Return what decides which rows fit, in a form that is cheap to compare; None where each must be looked at.

    A list of numbers, flags and classes: thousands of tuples would wake Python's garbage collector at each step.
    """
    parameters, gradients, *others = zip(*rows, strict=True)
    kinds = [*map(type, chain(parameters, gradients, *others))]
    if not _KNOWN.issuperset(kinds):
        return None
    held = [tensor for tensor in chain(parameters, *others) if tensor is not None]
    given = [tensor for tensor in gradients if tensor is not None]
    every = [*held, *given]
    if {*map(_layout, every)} != {torch.strided} or not all(map(_on_cpu, every)):
        return None
    if any(map(Tensor.is_neg, every)) or 0 in map(Tensor.data_ptr, given):
        return None
    contiguous = [*map(Tensor.is_contiguous, every)]
    found = [*kinds, *map(Tensor.data_ptr, held), *map(Tensor.numel, every), *map(_dtype, every), *contiguous]
    if not all(contiguous):  # as convolutions that are channels_last
        found += [(tensor.shape, tensor.stride()) for tensor in compress(every, map(not_, contiguous))]
    return found


def _row_fits(row: Row, rule: Rule) -> bool:
    parameter, *others = row
    assert parameter is not None
    coarse = others.pop() if rule in _COARSE else None
    return (
        fits(parameter)
        and all(other is None or alike(other, parameter) for other in others)
        and (coarse is None or alike(coarse, parameter, torch.bfloat16))
    )


def _pulled_from_nowhere(rule: Rule) -> Callable[[Row], bool]:
    """Return whether a row of this rule has an omega, but no anchor."""
    if rule not in _COARSE:
        return lambda row: False
    anchor = 2 if rule == "pull" else 3
    return lambda row: row[anchor] is None and not (row[anchor + 1] is None and row[-1] is None)


def run(rule: Rule, rows: Sequence[Row], settings: Sequence[Sequence[float]]) -> bool:
    """Do what the rule says to all tensors, and return whether an increment of the path was not finite.

    Args:
        rule: a function of kernel.c.
        rows: for each parameter, in the order of the rule's struct in kernel.c; None where there is none. The first
            :func:`fits`, and all are :func:`alike`: wrong addresses would write over other memory.
        settings: for each parameter, in the order of the rule's other struct.

    Example:
        >>> after, gradient, path, before = torch.zeros(2), torch.ones(2), torch.zeros(2), torch.ones(2)
        >>> if fits(after):
        ...     skipped = run("integrate_all", [(after, gradient, path, before)], [[1.0]])
        ... else:
        ...     path += gradient * (before - after)
        >>> path
        tensor([1., 1.])
    """
    if {*map(len, rows)} - {_FIELDS[rule][0]} or {*map(len, settings)} - {_FIELDS[rule][1]}:
        raise ValueError(f"{rule} takes {_FIELDS[rule]} tensors and numbers for each parameter")
    if len(rows) != len(settings):
        raise ValueError(f"{rule} was given {len(rows)} rows of tensors and {len(settings)} of numbers")
    if any(row[i] is None for i in _NEEDED[rule] for row in rows) or any(map(_pulled_from_nowhere(rule), rows)):
        raise ValueError(f"{rule} cannot do without its tensors {_NEEDED[rule]}, nor an omega without its anchor")
    parameters = [row[0] for row in rows if row[0] is not None]
    if len({*map(_dtype, parameters)}) > 1:
        dtypes = [parameter.dtype for parameter in parameters]
        by_dtype = [[dtype == one for dtype in dtypes] for one in dict.fromkeys(dtypes)]
        return any([run(rule, [*compress(rows, some)], [*compress(settings, some)]) for some in by_dtype])
    if not parameters:
        return False
    # Arrays, as ctypes takes much longer to make its own.
    sizes = array("q", map(Tensor.numel, parameters))
    addresses = array("Q", [0 if tensor is None else tensor.data_ptr() for tensor in chain.from_iterable(rows)])
    numbers = array("d", chain.from_iterable(settings))
    function = getattr(kernel(parameters[0].dtype), rule)
    lists = (ctypes.c_void_p(some.buffer_info()[0]) for some in (sizes, addresses, numbers))
    return bool(function(ctypes.c_int(len(rows)), *lists, ctypes.c_int(torch.get_num_threads())))
