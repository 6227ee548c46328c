"""Merged importance: its penalty is the sum of the files' penalties, but for a constant; what is unlike is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from oracle import small_model, task_batches
from torch import Tensor

import synaptic_intelligence as si
from synaptic_intelligence.checkpoint import read_importance, write_importance
from synaptic_intelligence.importance_file import ImportanceFile
from synaptic_intelligence.merging import merged

Exact = list[Fraction]
Terms = list[tuple[Exact, Exact]]  # weights and anchors of each file


def importance(
    omega: Tensor | dict[str, Tensor], anchor: Tensor | dict[str, Tensor], c: Any = 1.0, **fields: Any
) -> ImportanceFile:
    first, second = ({"w": part} if isinstance(part, Tensor) else part for part in (omega, anchor))
    return replace(ImportanceFile("path_integral", {"xi": 0.1}, c, 1, 0, first, second, {}), **fields)


def by_name(*files: ImportanceFile) -> dict[str, ImportanceFile]:
    return {f"{letter}.safetensors": file for letter, file in zip("abcdef", files, strict=False)}


def penalty(terms: Terms, theta: Exact) -> Fraction:
    return sum((w * (t - a) ** 2 for ws, aa in terms for w, a, t in zip(ws, aa, theta, strict=True)), Fraction())


def exact(values: Tensor | Sequence[float]) -> Exact:
    return [Fraction(value) for value in (values.flatten().tolist() if isinstance(values, Tensor) else values)]


def float64(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Ordinary sizes of omega, and zeros; anchors and points as weights of networks are.
omegas = st.one_of(st.just(0.0), st.floats(1e-9, 1e6))
thetas = st.floats(-10.0, 10.0)


@st.composite
def several(draw: st.DrawFn) -> tuple[list[tuple[float, list[float], list[float]]], list[list[float]]]:
    """Two to four files, as strength, omega and anchor, and three points."""
    size = draw(st.integers(1, 4))
    numbers = [st.lists(kind, min_size=size, max_size=size) for kind in (omegas, thetas)]
    files = draw(st.lists(st.tuples(st.floats(1e-3, 1e3), *numbers), min_size=2, max_size=4))
    return files, draw(st.lists(numbers[1], min_size=3, max_size=3))


@pytest.mark.filterwarnings("ignore:the merged file pulls nothing")
@given(several(), st.sampled_from([1.0, 0.1, 30.0]))
def test_the_penalties_sum_is_the_merged_penalty_and_a_constant(
    case: tuple[list[tuple[float, list[float], list[float]]], list[list[float]]], merged_c: float
) -> None:
    files, points = case
    wide = [importance(float64(omega), float64(anchor), c) for c, omega, anchor in files]
    found = merged(by_name(*wide), merged_c=merged_c)
    assert found.c == merged_c
    before: Terms = [([Fraction(c) * w for w in exact(omega)], exact(anchor)) for c, omega, anchor in files]
    after: Terms = [([Fraction(merged_c) * w for w in exact(found.omega["w"])], exact(found.anchor["w"]))]
    # In exact arithmetic, so that what differs is what merging has rounded.
    at = [exact(point) for point in points]
    constants = [penalty(before, theta) - penalty(after, theta) for theta in at]
    largest = max(penalty(before, theta) for theta in at)
    assert max(constants) - min(constants) <= Fraction(1e-12) * largest
    # The constant itself is what no parameters can avoid: the sum of the penalties where it is least.
    least = penalty(before, [_minimum(before, place) for place in range(len(points[0]))])
    assert all(abs(constant - least) <= Fraction(1e-12) * max(largest, least) for constant in constants)
    assert found.anchor["w"].tolist() == pytest.approx(
        [float(_minimum(before, place)) for place in range(len(points[0]))], rel=1e-12, abs=1e-12
    )


def _minimum(terms: Terms, place: int) -> Fraction:
    total = sum((ws[place] for ws, _ in terms), Fraction())
    if not total:
        return sum((aa[place] for _, aa in terms), Fraction()) / len(terms)
    return sum((ws[place] * aa[place] for ws, aa in terms), Fraction()) / total


def test_by_hand() -> None:
    a = importance(torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0.0, 1.0, 5.0]), c=1.0)
    b = importance(torch.tensor([0.5, 0.0, 0.0]), torch.tensor([4.0, 2.0, 7.0]), c=6.0, tasks=3)
    both = merged(by_name(a, b))
    assert both.omega["w"].tolist() == [4.0, 0.0, 2.0]
    assert both.anchor["w"].tolist() == [3.0, 1.5, 5.0]  # where nothing pulls, the mean
    assert (both.c, both.tasks, both.steps, both.path) == (1.0, 4, 0, {})
    assert (both.estimator, both.settings) == ("path_integral", {"xi": 0.1})


def test_strengths_that_are_given_take_the_place_of_the_files() -> None:
    files = by_name(*(importance(torch.ones(1), torch.tensor([at]), c=9.0) for at in (0.0, 1.0)))
    both = merged(files, c=[1.0, 3.0])
    assert (both.omega["w"].item(), both.anchor["w"].item()) == (4.0, 0.75)
    assert merged(files, c=[0.0, 3.0]).anchor["w"].item() == 1.0


def test_merging_step_by_step_is_merging_at_once() -> None:
    def file() -> ImportanceFile:
        return importance(torch.rand(50).double().pow(4), torch.randn(50).double(), c=float(torch.rand(())))

    a, b, c = file(), file(), file()
    at_once = merged(by_name(a, b, c))
    by_steps = merged({"ab": merged(by_name(a, b)), "c": c})
    for one, other in ((at_once.omega, by_steps.omega), (at_once.anchor, by_steps.anchor)):
        assert float((one["w"] - other["w"]).abs().max() / one["w"].abs().max()) <= 1e-12


@pytest.mark.parametrize("given", [False, True], ids=["in-the-file", "as-argument"])
def test_replicates_have_a_strength_each(given: bool) -> None:
    omega, anchor = torch.rand(3, 4, 2, dtype=torch.float64), torch.randn(3, 4, 2, dtype=torch.float64)
    strengths = (0.0, 0.5, 2.0)
    a = importance(omega, anchor, c=1.0 if given else strengths)
    b = importance(omega.flip(0), -anchor, c=0.25)
    both = merged(by_name(a, b), c=[torch.tensor(strengths, dtype=torch.float64), 0.25] if given else None)
    assert both.c == 1.0
    for replicate, c in enumerate(strengths):
        alone = [importance(each.omega["w"][replicate], each.anchor["w"][replicate]) for each in (a, b)]
        expected = merged(by_name(*alone), c=[c, 0.25])
        assert torch.equal(both.omega["w"][replicate], expected.omega["w"])
        assert torch.equal(both.anchor["w"][replicate], expected.anchor["w"])


@pytest.mark.parametrize(
    ("omegas", "anchors", "widest"),
    [
        ((torch.bfloat16, torch.bfloat16), (torch.float32, torch.float32), torch.float32),
        ((torch.bfloat16, torch.float32), (torch.float32, torch.float32), torch.float32),
        ((torch.bfloat16, torch.float32), (torch.float64, torch.float32), torch.float64),
        ((torch.float32, torch.float64), (torch.float32, torch.float64), torch.float64),
    ],
)
def test_numbers_are_stored_in_the_widest_dtype(
    omegas: tuple[torch.dtype, ...], anchors: tuple[torch.dtype, ...], widest: torch.dtype
) -> None:
    files = [
        importance(torch.rand(20).to(o), torch.randn(20).to(a), c=0.3) for o, a in zip(omegas, anchors, strict=True)
    ]
    both = merged(by_name(*files))
    weights = [0.3 * file.omega["w"].double().numpy() for file in files]
    total = sum(weights)
    mean = sum(w * file.anchor["w"].double().numpy() for w, file in zip(weights, files, strict=True)) / total
    for found, expected in ((both.omega["w"], total), (both.anchor["w"], mean)):
        assert found.dtype == widest
        error = (found.double() - torch.from_numpy(expected)).abs().max() / abs(expected).max()
        assert float(error) <= (1e-12 if widest == torch.float64 else 2**-24)  # rounded once, at the end


def test_a_mean_of_huge_anchors_does_not_overflow() -> None:
    huge = torch.tensor([3e38])
    both = merged(by_name(importance(huge, huge, c=0.5), importance(huge, huge, c=0.5)))
    assert both.omega["w"].item() == both.anchor["w"].item() == huge.item()


def test_empty_and_scalar_parameters() -> None:
    tensors = {"scalar": torch.tensor(2.0), "empty": torch.zeros(0, 3)}
    both = merged(by_name(importance(tensors, tensors), importance(tensors, tensors)))
    assert both.omega["scalar"].item() == 4.0
    assert both.anchor["empty"].shape == (0, 3)


# What some files lack.


def test_a_parameter_that_one_file_lacks_is_free_there() -> None:
    common, head = {"w": torch.ones(2)}, {"w": 3 * torch.ones(2), "head": torch.tensor([2.0, 0.0])}
    files = by_name(importance(common, common, c=0.5), importance(head, head, c=2.0))
    with pytest.raises(si.SynapseError, match=r"a\.safetensors has no importance of \['head'\].*missing='free'"):
        merged(files)
    both = merged(files, missing="free")
    assert list(both.omega) == list(both.anchor) == ["w", "head"]
    assert both.omega["head"].tolist() == [4.0, 0.0]
    assert both.anchor["head"].tolist() == [2.0, 0.0]  # also where it has none: the other file has no anchor
    assert both.omega["w"].tolist() == [6.5, 6.5]


def test_shapes_must_agree_even_if_names_need_not() -> None:
    files = by_name(importance(torch.ones(2), torch.ones(2)), importance(torch.ones(3), torch.ones(3)))
    with pytest.raises(
        si.SynapseError, match=r"'w' is of different shapes.*a\.safetensors': \[2\], 'b\.safetensors': \[3\]"
    ):
        merged(files, missing="free")


# What is refused.

ONE = importance(torch.ones(2), torch.ones(2))


@pytest.mark.parametrize(
    ("other", "arguments", "error", "match"),
    [
        (
            replace(ONE, steps=3, path=ONE.omega),
            {},
            si.SynapseError,
            "b.safetensors was saved in the middle of a task, ",
        ),
        (replace(ONE, estimator="fisher"), {}, si.SynapseError, "b.safetensors is of fisher with .*one estimator"),
        (replace(ONE, settings={"xi": 0.2}), {}, si.SynapseError, "0.2"),
        (replace(ONE, settings={}), {}, si.SynapseError, "settings"),
        (replace(ONE, c=(1.0, 2.0, 3.0)), {}, si.SynapseError, "3 strengths, so 'w' needs a leading axis of 3"),
        (ONE, {"c": [1.0]}, ValueError, "one strength for each of the 2 files, not 1"),
        (ONE, {"c": [1.0, -1.0]}, ValueError, "c of b.safetensors must be"),
        (ONE, {"c": [1.0, float("nan")]}, ValueError, "c of b.safetensors must be"),
        (ONE, {"c": [1.0, "2"]}, TypeError, "c of b.safetensors must be"),
        (ONE, {"c": [1.0, torch.ones(3)]}, si.SynapseError, "3 strengths"),
        (ONE, {"c": 1.0}, TypeError, r"a list of one strength for each file, such as \[0.1, 1.0\], not float"),
        (ONE, {"c": torch.ones(2)}, TypeError, "not Tensor"),
        (ONE, {"merged_c": 0.0}, ValueError, "merged_c must be positive"),
        (ONE, {"missing": "zero"}, ValueError, "missing must be 'refuse' or 'free'"),
        (ONE, {"c": [1e38, 4e38]}, si.SynapseError, "merged omega of 'w' is not finite in torch.float32"),
        (ONE, {"c": [1e308, 1.7e308]}, si.SynapseError, "not finite"),
        (ONE, {"c": [1e-300, 1e-300]}, si.SynapseError, "rounds to zero everywhere"),
        (ONE, {"merged_c": 1e60}, si.SynapseError, "rounds to zero everywhere"),
        (ONE, {"c": [1e-300, 1e-300], "merged_c": 1e300}, si.SynapseError, "rounds to zero everywhere"),
    ],
)
def test_what_cannot_be_merged_is_refused(
    other: ImportanceFile, arguments: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match) as caught:
        merged(by_name(ONE, other), **arguments)
    assert caught.type is error


def test_fewer_than_two_files_are_refused() -> None:
    for files in ({}, by_name(ONE)):
        with pytest.raises(ValueError, match="two or more"):
            merged(files)


@pytest.mark.parametrize(
    ("idle", "match"),
    [
        (replace(ONE, c=0.0), "b.safetensors adds nothing to the pull: its c is zero"),
        (replace(ONE, tasks=0), "no task"),
    ],
)
def test_a_file_that_adds_nothing_is_warned_of(idle: ImportanceFile, match: str) -> None:
    with pytest.warns(si.SynapseWarning, match=match):
        merged(by_name(ONE, idle))


def test_a_strength_of_zero_that_is_given_is_meant() -> None:
    assert torch.equal(merged(by_name(ONE, ONE), c=[1.0, 0.0]).omega["w"], ONE.omega["w"])


# Files.


def saved(folder: Path, *files: ImportanceFile) -> list[Path]:
    for name, file in by_name(*files).items():
        write_importance(file, folder / name)
    return [folder / name for name in by_name(*files)]


def test_the_new_file_may_take_the_place_of_an_old_one(tmp_path: Path) -> None:
    two = importance(3 * torch.ones(2), -torch.ones(2))
    paths = saved(tmp_path, ONE, two)
    si.merge_importance(map(str, paths), str(paths[1]))
    found = read_importance(paths[1])
    assert found.omega["w"].tolist() == [4.0, 4.0]
    assert found.anchor["w"].tolist() == [-0.5, -0.5]
    assert sorted(tmp_path.iterdir()) == paths


def test_what_fails_leaves_the_old_file_as_it_was(tmp_path: Path) -> None:
    paths = saved(tmp_path, ONE, replace(ONE, estimator="fisher"))
    before = [path.read_bytes() for path in paths]
    with pytest.raises(si.SynapseError, match="fisher"):
        si.merge_importance(paths, paths[0])
    assert [path.read_bytes() for path in paths] == before
    assert sorted(tmp_path.iterdir()) == paths


def test_arguments_that_are_no_files(tmp_path: Path) -> None:
    (path,) = saved(tmp_path, ONE)
    with pytest.raises(TypeError, match="a list of paths, not one"):
        si.merge_importance(path, tmp_path / "out")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="given twice"):
        si.merge_importance([path, tmp_path / "." / path.name], tmp_path / "out")
    with pytest.raises(ValueError, match="two or more"):
        si.merge_importance([path], tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="missing"):
        si.merge_importance([path, tmp_path / "missing"], tmp_path / "out")
    assert list(tmp_path.iterdir()) == [path]


# Two real networks, and a third in another process.

THIRD = """
import sys, torch
import synaptic_intelligence as si
from safetensors.torch import load_file, save_file

merged, start, out = sys.argv[1:]
theta = {name: torch.nn.Parameter(tensor) for name, tensor in load_file(start).items()}
optimizer = torch.optim.SGD(theta.values(), lr=1.0)
synapses = si.SynapticIntelligence(theta.items(), optimizer, c=1.0, xi=0.1)
synapses.load(merged)
assert synapses.tasks == 2
pull = {name: p.detach().clone() for name, p in theta.items()}
for p in theta.values():
    p.grad = torch.zeros_like(p)
optimizer.step()
for name, p in theta.items():
    pull[name] -= p.detach()
save_file(pull, out)
"""


def test_a_third_network_is_pulled_by_both(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    strengths = (0.5, 2.0)
    for task, c in enumerate(strengths):
        model = small_model(seed=0)  # from one start
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=c, xi=0.1)
        for x, y in task_batches(task, 10):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        synapses.consolidate()
        synapses.save(tmp_path / f"{task}.safetensors")
    files = [tmp_path / "0.safetensors", tmp_path / "1.safetensors"]
    si.merge_importance(files, tmp_path / "both.safetensors")
    theta = {name: p.detach() for name, p in small_model(seed=3).named_parameters()}
    save_file(theta, tmp_path / "theta.safetensors")
    words = [str(tmp_path / f"{name}.safetensors") for name in ("both", "theta", "out")]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", THIRD, *words], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = load_file(tmp_path / "out.safetensors")
    read = [load_file(file) for file in files]
    for name, p in theta.items():
        expected = sum(
            2 * c * file[f"omega/{name}"] * (p - file[f"anchor/{name}"])
            for c, file in zip(strengths, read, strict=True)
        )
        assert isinstance(expected, Tensor)
        assert float(expected.abs().max()) > 1e-4
        assert float((found[name] - expected).abs().max() / expected.abs().max()) <= 1e-12
