"""How the compiled step is built, found and called; what there is without one."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from oracle import small_model
from torch import Tensor, nn
from twins import count_rules, inside, needs_kernel, train

import synaptic_intelligence as si
from synaptic_intelligence import native

build = native.kernel.__wrapped__  # without its memory of what it found before


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    return tmp_path / "cache" / "synaptic-intelligence"


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kernel that is built already, for compilers of these tests that only copy it."""
    folder = tmp_path_factory.mktemp("ready")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        assert isinstance(build(torch.float32), ctypes.CDLL)
    return next((folder / "synaptic-intelligence").glob("*.so"))


def compiler(path: Path, body: str) -> str:
    """Write a program that is called as a compiler is."""
    path.write_text(f'#!/bin/sh\ncase "$*" in *--version) echo made up; exit 0;; esac\n{body}\n', "utf-8")
    path.chmod(0o755)
    return str(path)


def works(found: object) -> bool:
    """Whether a kernel for float32 does what it should."""
    assert isinstance(found, ctypes.CDLL), found
    after, gradient, path, before = torch.zeros(70), torch.full((70,), 2.0), torch.zeros(70), torch.ones(70)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "kernel", lambda dtype: found)
        assert not native.run("integrate_all", [(after, gradient, path, before)], [[1.0]])
    return torch.equal(path, torch.full((70,), 2.0))


@needs_kernel
def test_it_is_built_once_and_kept(cache: Path, ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("CC", compiler(tmp_path / "cc", f"echo built >> {log}; cp {ready} step.so"))
    assert works(build(torch.float32))
    assert works(build(torch.float32))
    assert log.read_text("utf-8").splitlines() == ["built"]
    assert [path.suffix for path in cache.iterdir()] == [".so"]  # nothing else is left behind
    build(torch.float64)
    assert len(list(cache.iterdir())) == 2  # another for each dtype
    monkeypatch.setenv("CC", compiler(tmp_path / "other", f"cp {ready} step.so; : another"))
    assert works(build(torch.float32))
    assert len(list(cache.iterdir())) == 3  # and for each compiler


@needs_kernel
def test_two_processes_may_build_at_once(cache: Path, ready: Path, tmp_path: Path) -> None:
    slow = compiler(tmp_path / "cc", f"head -c 999 {ready} > step.so; sleep 1; cp {ready} step.so")
    program = (
        "import ctypes, torch; from synaptic_intelligence import native; k = native.kernel(torch.float32); "
        "assert isinstance(k, ctypes.CDLL), k; print('done')"
    )
    environment = {**os.environ, "CC": slow}
    both = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate()[0].strip() for process in both] == ["done", "done"]
    assert [path.suffix for path in cache.iterdir()] == [".so"]


@needs_kernel
def test_a_compiler_without_openmp(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    refuses = 'for a in "$@"; do [ "$a" = -fopenmp ] && echo no such option >&2 && exit 1; done'
    monkeypatch.setenv("CC", compiler(tmp_path / "cc", f'{refuses}\nexec {real} "$@"'))
    found = build(torch.float32)
    assert works(found)
    monkeypatch.setattr(native, "kernel", lambda dtype: found)
    native.warn_of_one_thread.cache_clear()
    native.warn_of_one_thread(torch.float32)  # with one thread there is nothing to say
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    native.warn_of_one_thread.cache_clear()
    with pytest.warns(si.SynapseWarning, match="knows no OpenMP"):
        native.warn_of_one_thread(torch.float32)
    native.warn_of_one_thread.cache_clear()


@needs_kernel
def test_the_variable_may_hold_options(
    cache: Path, ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "with space"
    folder.mkdir()
    launcher = compiler(folder / "launcher", f'[ "$1" = cc ] || exit 1\ncp {ready} step.so')
    monkeypatch.setenv("CC", f"'{launcher}' cc -g")
    assert works(build(torch.float32))
    monkeypatch.setenv("CC", f"'{launcher}' another")
    assert "failed" in str(build(torch.float32))


def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", unknown)


@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        ("none", "no C compiler"),
        ("missing", "No such file"),
        ("not executable", "Permission denied"),
        ("quotes", "No closing quotation"),
        ("fails", "it is broken"),
        ("fails silently", "exit status 3"),
        ("strange letters", "failed"),
        ("makes nothing", "No such file"),
        ("makes something else", "invalid ELF header|file too short|not a"),
        ("folder is a file", "exists|Not a directory"),
        ("no home", "home directory"),
    ],
)
def test_trouble_is_told_and_not_raised(
    trouble: str, says: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tmp_path / "plain"
    plain.write_text("this is no program", "utf-8")
    body = {
        "fails": "echo it is broken >&2; exit 1",
        "fails silently": "exit 3",
        "strange letters": r"printf '\377\376' >&2; exit 1",
        "makes something else": "echo something else than a library > step.so",
    }
    named = {"missing": str(tmp_path / "nowhere"), "not executable": str(plain), "quotes": "cc 'x"}
    monkeypatch.setenv("CC", named.get(trouble) or compiler(tmp_path / "cc", body.get(trouble, "true")))
    if trouble == "none":
        monkeypatch.delenv("CC")
        monkeypatch.setenv("PATH", str(tmp_path))
        (tmp_path / "cc").unlink()
    elif trouble == "folder is a file":
        monkeypatch.setenv("XDG_CACHE_HOME", str(plain))
    elif trouble == "no home":
        no_home(monkeypatch)
    reason = build(torch.float32)
    assert isinstance(reason, str)
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(reason)


def test_one_warning_for_a_machine_without_a_compiler(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", compiler(tmp_path / "cc", "exit 3"))
    monkeypatch.setattr(native, "kernel", functools.cache(build))
    native.warn_of_no_kernel.cache_clear()
    models = [small_model(torch.float32) for _ in range(3)]
    hooked = torch.optim.Adam(models[0].parameters())
    synapses = si.SynapticIntelligence(models[0].named_parameters(), hooked, c=1.0, xi=0.1)
    train(models[0], hooked, 0)  # hooks have no kernel that anybody waits for: warnings are errors here
    synapses.detach()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for model in models:
            optimizer = inside("Adam", model.named_parameters())
            train(model, optimizer, 0, 2)
            optimizer.consolidate()
    assert [w.category for w in caught] == [si.SynapseWarning]
    assert "several passes over memory" in str(caught[0].message)
    assert "exit status 3" in str(caught[0].message)
    assert caught[0].filename == __file__ or caught[0].filename.endswith("twins.py")
    native.warn_of_no_kernel.cache_clear()


@needs_kernel
def test_the_twentieth_optimizer_has_the_kernel_and_rates_build_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    build_calls: list[torch.dtype] = []
    built = native._built

    def counted(command: list[str], dtype: torch.dtype) -> Path:
        build_calls.append(dtype)
        return built(command, dtype)

    monkeypatch.setattr(native, "_built", counted)
    native.kernel.cache_clear()
    kept = []
    for number in range(20):
        model = small_model(torch.float32)
        optimizer = inside(("SGD", "Adam", "AdamW")[number % 3], model.named_parameters(), lr=0.01)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        with count_rules() as called:
            for _ in range(3):
                train(model, optimizer, 0, 1)
                scheduler.step()
        assert called == ["adam_step" if number % 3 else "sgd_step"] * 3
        kept.append(optimizer)
    assert build_calls == [torch.float32]


@needs_kernel
def test_what_keeps_the_kernel_from_a_step_is_told_once() -> None:
    named = [("plain", nn.Parameter(torch.ones(3, 2))), ("turned", nn.Parameter(torch.ones(2, 3).T))]
    optimizer = inside("Adam", named)
    for number in range(2):
        for _, parameter in named:
            parameter.grad = torch.ones_like(parameter)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            optimizer.step()
        assert [w.category for w in caught] == ([] if number else [si.SynapseWarning])
        assert number or "walk over 'turned'" in str(caught[0].message)
    native.warn_of_no_kernel.cache_clear()


# How it is kept.


@needs_kernel
@pytest.mark.parametrize("harm", ["cut", "bit", "empty"])
def test_a_damaged_file_is_not_loaded_but_built_again(
    harm: str, cache: Path, ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", compiler(tmp_path / "cc", f"cp {ready} step.so"))
    assert works(build(torch.float32))
    (kept,) = cache.iterdir()
    content = bytearray(kept.read_bytes())
    whole = bytes(content)
    if harm == "bit":
        content[len(content) // 2] ^= 1
    kept.unlink()  # another file: what is loaded already stays as it is
    kept.write_bytes({"cut": bytes(content[:5000]), "bit": bytes(content), "empty": b""}[harm])
    assert works(build(torch.float32))
    assert [path.read_bytes() for path in cache.iterdir()] == [whole]


@needs_kernel
def test_nothing_is_loaded_from_where_others_may_write(
    cache: Path, ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", compiler(tmp_path / "cc", f"cp {ready} step.so"))
    assert works(build(torch.float32))
    assert cache.stat().st_mode & 0o777 == 0o700
    cache.chmod(0o777)
    assert "others may write to it" in str(build(torch.float32))
    cache.chmod(0o755)
    (kept,) = cache.iterdir()
    assert kept.stat().st_mode & 0o777 == 0o700
    kept.chmod(0o770)
    assert f"chmod go-w {kept}" in str(build(torch.float32))
    kept.chmod(0o700)
    assert works(build(torch.float32))
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert "another user's" in str(build(torch.float32))


# What it may walk over.


def test_what_fits() -> None:
    plain = torch.ones(2, 3, 4, 5)
    channels_last = plain.to(memory_format=torch.channels_last)
    for tensor in (plain, channels_last, nn.Parameter(plain), plain[1:], torch.ones(()), torch.ones(0)):
        assert native.fits(tensor) == (not isinstance(native.kernel(torch.float32), str))
    for tensor in (
        plain.transpose(0, 1),
        plain[..., ::2],
        torch.ones(1).expand(3),
        plain.bfloat16(),
        plain.half(),
        plain.to("meta"),
        torch.tensor([2.0 + 3.0j]).conj().imag,
        torch.ones(2, 2).to_sparse(),
    ):
        assert not native.fits(tensor)


@pytest.mark.parametrize(
    ("tensor", "parameter", "alike", "of_one_kind"),
    [
        (torch.ones(2, 3), torch.ones(2, 3), True, True),
        (torch.ones(3, 2).T, torch.ones(2, 3), False, True),
        (torch.ones(3, 1).T, torch.ones(1, 3), True, True),
        (torch.ones(3).expand(2, 3), torch.ones(2, 3), False, True),
        (torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last), torch.ones(2, 3, 4, 4), False, True),
        (torch.ones(2, 3, 1, 1).to(memory_format=torch.channels_last), torch.ones(2, 3, 1, 1), True, True),
        (torch.ones(6), torch.ones(2, 3), False, False),
        (torch.ones(2, 3).double(), torch.ones(2, 3), False, False),
        (torch.ones(2, 3).to_sparse(), torch.ones(2, 3), False, False),
        (torch.ones(2, 3).to("meta"), torch.ones(2, 3), False, False),
        (torch.tensor([2.0 + 3.0j]).conj().imag, torch.ones(1), False, False),
    ],
)
def test_what_it_may_walk_over_together(tensor: Tensor, parameter: Tensor, alike: bool, of_one_kind: bool) -> None:
    assert (native.alike(tensor, parameter), native.of_one_kind(tensor, parameter)) == (alike, of_one_kind)


@needs_kernel
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_share_every_element_once(threads: int) -> None:
    sizes = (0, 1, 63, 64, 65, 127, 1000, 33000, 32768 + 64 + 1)
    torch.set_num_threads(threads)
    try:
        for dtype in (torch.float32, torch.float64):
            rows: list[native.Row] = []
            for size in sizes:
                guarded = torch.zeros(size + 128, dtype=dtype)
                ones = torch.ones(size, dtype=dtype)
                rows.append((torch.zeros_like(ones), ones, guarded[64 : size + 64], ones))
            assert not native.run("integrate_all", rows, [[1.0]] * len(rows))
            for size, row in zip(sizes, rows, strict=True):
                path = row[2]
                assert path is not None
                assert bool((path == 1).all())
                assert float(path.untyped_storage().nbytes()) == (size + 128) * dtype.itemsize
                whole = path.new_empty(0).set_(path.untyped_storage())
                assert float(whole.sum()) == size  # and nothing beside it
    finally:
        torch.set_num_threads(1)


@needs_kernel
def test_a_single_element_that_is_not_finite_is_found_wherever_it_is() -> None:
    for place in (0, 15, 16, 64, 99, 40000, 69999):
        gradient = torch.ones(70000)
        gradient[place] = torch.inf
        path = torch.zeros(70000)
        assert native.run("integrate_all", [(torch.zeros(70000), gradient, path, torch.ones(70000))], [[1.0]])
        assert float(path.sum()) == 69999
        assert path[place] == 0


@needs_kernel
def test_an_omega_in_bfloat16_is_read_as_torch_reads_it() -> None:
    """Every finite number that bfloat16 has."""
    omega = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16)
    omega = omega[omega.isfinite()]
    for dtype in (torch.float32, torch.float64):
        one, zero = torch.ones(len(omega), dtype=dtype), torch.zeros(len(omega), dtype=dtype)
        used = torch.empty_like(one)
        assert not native.run("pull", [(one, zero, zero, None, used, None, omega)], [[1.0]])
        assert torch.equal(used, omega.to(dtype))


@needs_kernel
def test_a_plan_looks_again_wherever_memory_may_be_another() -> None:
    """Each of these keeps the objects, and would have the kernel read or write where it must not."""

    changes: dict[str, Callable[[dict[str, Tensor]], object]] = {
        "the parameter is smaller": lambda t: setattr(t["parameter"], "data", torch.ones(2, 3)),
        "the parameter lies in other places": lambda t: setattr(t["parameter"], "data", t["parameter"].data.T),
        "the gradient lies in other places": lambda t: t["gradient"].transpose_(0, 1),
        "the gradient is smaller": lambda t: t["gradient"].resize_(2, 2),
        "what is beside it is freed": lambda t: t["path"].untyped_storage().resize_(0),
        "what is beside it is of another dtype": lambda t: setattr(t["path"], "data", t["path"].data.double()),
        "what is beside it repeats one row": lambda t: setattr(t["path"], "data", t["path"].data[:1].expand(4, 4)),
        "omega is not bfloat16": lambda t: setattr(t["omega"], "data", t["omega"].data.half()),
    }
    for what, change in changes.items():
        tensors = {name: torch.ones(4, 4) for name in ("parameter", "gradient", "path")}
        tensors["omega"] = torch.ones(4, 4).bfloat16()
        parameter, gradient, path, omega = tensors.values()
        plan, rows = native.Plan("pull"), [(parameter, gradient, path, None, path, path, omega)]
        assert plan.fits(rows) == [True], what
        assert plan.fits(rows) == [True], what
        change(tensors)
        assert plan.fits(rows) == [False], what


@needs_kernel
def test_only_the_place_of_a_coarse_omega_may_hold_bfloat16() -> None:
    one, coarse = torch.ones(4), torch.ones(4).bfloat16()
    assert native.Plan("pull").fits([(one, one, one, coarse, one, one, None)]) == [False]
    assert native.Plan("pull").fits([(one, one, one, None, one, one, one)]) == [False]
    assert native.Plan("integrate_all").fits([(one, one, one, coarse)]) == [False]


@needs_kernel
def test_a_call_without_what_a_rule_needs_is_refused_before_it_can_do_harm() -> None:
    one, adam = torch.ones(4), [0.1] * 10
    good = (one, one, one, one, one, one, one, None, None)
    for missing in (0, 1, 3, 5, 6):
        row = tuple(None if i == missing else tensor for i, tensor in enumerate(good))
        with pytest.raises(ValueError, match="cannot do without"):
            native.run("adam_step", [row], [adam])
    with pytest.raises(ValueError, match="2 rows of tensors and 1 of numbers"):
        native.run("adam_step", [good, good], [adam])
    with pytest.raises(ValueError, match=r"takes \(9, 10\)"):
        native.run("adam_step", [good[:8]], [adam])
    with pytest.raises(ValueError, match="nor an omega without its anchor"):
        native.run("pull", [(one, one, None, None, one, None, one.bfloat16())], [[1.0]])


@needs_kernel
def test_a_parameter_that_is_a_lazy_negative_is_looked_at_again() -> None:
    parameter, one = torch.ones(4), torch.ones(4)
    plan, row = native.Plan("integrate_all"), [(parameter, one, one, one)]
    assert plan.fits(row) == [True]
    parameter.data = torch._neg_view(parameter.data)
    assert plan.fits(row) == [False]
