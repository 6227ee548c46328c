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
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Literal, final

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

Rule = Literal["adam_step", "sgd_step", "pull", "integrate_all"]

# How many tensors and numbers each rule takes for a parameter: one too few, and all that follow would be misread.
_FIELDS: dict[Rule, tuple[int, int]] = {
    "adam_step": (8, 10),
    "sgd_step": (8, 7),
    "pull": (6, 1),
    "integrate_all": (4, 1),
}


@functools.cache
def kernel(dtype: torch.dtype) -> ctypes.CDLL | str:
    """Return the compiled kernel for parameters of this dtype, or why there is none.

    It is built at first use and kept in the user's cache folder (``XDG_CACHE_HOME``), for this compiler and processor.

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
    warn(f"the optimizer steps in several passes over memory, which is slower, with the same numbers: {reason}")


def _run(command: Sequence[str], folder: str | None = None) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True, errors="replace", cwd=folder)
    return done.stdout


def _built(compiler: list[str], dtype: torch.dtype) -> Path:
    source = files("synaptic_intelligence").joinpath("kernel.c").read_text("utf-8")
    version = _run([*compiler, "--version"])
    key = "\n".join([source, *compiler, version, *_FLAGS, *_REAL[dtype], platform.machine(), _processor()])
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "synaptic-intelligence"
    built = folder / f"step-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    if not built.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            (Path(work) / "kernel.c").write_text(source, "utf-8")
            command = [*compiler, *_FLAGS, *_REAL[dtype], "-shared", "-fPIC", "-o", "step.so", "kernel.c", "-lm"]
            try:
                _run([*command, "-fopenmp"], work)
            except subprocess.CalledProcessError:
                # Apple's compiler has no OpenMP: one thread, and otherwise the same.
                _run(command, work)
            os.replace(Path(work) / "step.so", built)  # whole or not at all, whoever else builds it
    return built


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


def alike(tensor: Tensor, parameter: Tensor) -> bool:
    """Whether the kernel can walk over a tensor together with a parameter that fits: the same places, the same dtype.

    Example:
        >>> alike(torch.ones(2, 3), torch.ones(2, 3)), alike(torch.ones(3, 2).T, torch.ones(2, 3))
        (True, False)
    """
    # Strides of dimensions of one element say nothing: autograd and empty_like choose them freely.
    return of_one_kind(tensor, parameter) and (
        tensor.stride() == parameter.stride()
        or (tensor.is_contiguous() and parameter.is_contiguous())
        or (tensor.ndim == 4 and all(t.is_contiguous(memory_format=torch.channels_last) for t in (tensor, parameter)))
    )


def of_one_kind(tensor: Tensor, parameter: Tensor) -> bool:
    """Whether a copy of a tensor in the parameter's places holds the same numbers, and is :func:`alike`.

    Example:
        >>> of_one_kind(torch.ones(3, 2).T, torch.ones(2, 3)), of_one_kind(torch.ones(2).double(), torch.ones(2))
        (True, False)
    """
    return (
        tensor.dtype == parameter.dtype
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
class Lane:
    """Whether the kernel can walk over a parameter and the tensors beside it, remembered for as long as they lie there.

    Looking over how they lie to each other takes longer than the step of a small tensor. It is done again where the
    address, shape, strides, dtype or class of one is another than at the last look.

    Example:
        >>> parameter, moment, lane = torch.ones(2), torch.zeros(2), Lane()
        >>> lane.fits((parameter, moment)) == fits(parameter)
        True
        >>> lane.fits((parameter, torch.zeros(3)))
        False
    """

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: list[_Place | None] = []

    def fits(self, tensors: Sequence[Tensor | None]) -> bool:
        """Return whether the first tensor :func:`fits`, and the others, where there are any, are :func:`alike`."""
        parameter, *others = tensors
        assert parameter is not None
        if type(parameter) not in _PLAIN or not parameter.is_cpu:
            return False
        found = [None if tensor is None else _place(tensor) for tensor in tensors]
        if found == self._found:
            return True
        if fits(parameter) and all(other is None or alike(other, parameter) for other in others):
            self._found = found
            return True
        return False


_PLAIN = (Tensor, torch.nn.Parameter)

_Place = tuple[int, torch.Size, tuple[int, ...], torch.dtype, type]


def _place(tensor: Tensor) -> _Place:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, type(tensor)


def run(rule: Rule, tensors: Sequence[Sequence[Tensor | None]], settings: Sequence[Sequence[float]]) -> bool:
    """Do what the rule says to all tensors, and return whether an increment of the path was not finite.

    Args:
        rule: a function of kernel.c.
        tensors: for each parameter, in the order of the rule's struct in kernel.c; None where there is none. The first
            :func:`fits`, and all are :func:`alike`: wrong addresses would write over other memory.
        settings: for each parameter, in the order of the rule's other struct.

    Example:
        >>> after, gradient, path, before = torch.zeros(2), torch.ones(2), torch.zeros(2), torch.ones(2)
        >>> if fits(after):
        ...     skipped = run("integrate_all", [[after, gradient, path, before]], [[1.0]])
        ... else:
        ...     path += gradient * (before - after)
        >>> path
        tensor([1., 1.])
    """
    if {(len(each), len(numbers)) for each, numbers in zip(tensors, settings, strict=True)} - {_FIELDS[rule]}:
        raise ValueError(f"{rule} takes {_FIELDS[rule]} tensors and numbers for each parameter")
    skipped = False
    parameters = [each[0] for each in tensors if each[0] is not None]
    for dtype in {parameter.dtype for parameter in parameters}:
        rows = [i for i, parameter in enumerate(parameters) if parameter.dtype == dtype]
        sizes = [parameters[i].numel() for i in rows]
        addresses = [0 if tensor is None else tensor.data_ptr() for i in rows for tensor in tensors[i]]
        numbers = [number for i in rows for number in settings[i]]
        found = getattr(kernel(dtype), rule)(
            ctypes.c_int(len(rows)),
            (ctypes.c_int64 * len(sizes))(*sizes),
            (ctypes.c_void_p * len(addresses))(*addresses),
            (ctypes.c_double * len(numbers))(*numbers),
            ctypes.c_int(torch.get_num_threads()),
        )
        skipped = skipped or bool(found)
    return skipped
