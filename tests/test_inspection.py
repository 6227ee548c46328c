"""What an inspection says of an importance file, against numpy; and that nothing in a file can steer a terminal."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

import synaptic_intelligence as si
from synaptic_intelligence.checkpoint import read_importance, write_importance
from synaptic_intelligence.importance_file import ImportanceFile
from synaptic_intelligence.inspection import Inspection, bars, histogram_cells, inspected

FLOATS = [torch.bfloat16, torch.float32, torch.float64]


def file_of(omega: dict[str, Tensor], **fields: Any) -> ImportanceFile:
    anchor = {name: torch.zeros(t.shape) for name, t in omega.items()}
    header = {"estimator": "path_integral", "settings": {"xi": 0.1}, "c": 0.5, "tasks": 1, "steps": 0, "path": {}}
    return ImportanceFile(**{**header, "omega": omega, "anchor": anchor, **fields})


def inspection(omega: dict[str, Tensor], top: int = 10, **fields: Any) -> Inspection:
    return inspected(file_of(omega, **fields), "somebody", top)


def uneven(*shape: int, dtype: torch.dtype = torch.float32, zeros: float = 0.3) -> Tensor:
    """Sizes over many powers of ten, and some zeros."""
    sizes = torch.exp(6 * torch.randn(shape, dtype=torch.float64) - 4)
    return (sizes * (torch.rand(shape) > zeros)).to(dtype)


def double(tensor: Tensor) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = tensor.double().numpy().ravel()
    return values


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_figure_is_numpys(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synaptic_intelligence.inspection._AT_ONCE", 100)  # several parts of each tensor
    omega = {"b.weight": uneven(40, 30, dtype=dtype), "a.bias": uneven(17, dtype=dtype), "none": torch.zeros(5)}
    found = inspection(omega)
    values = np.concatenate([double(t) for t in omega.values()])
    total = math.fsum(values)
    assert found.numbers == len(values) == 1222
    assert found.zeros == int((values == 0).sum())
    assert found.total == pytest.approx(total, rel=1e-12)
    assert found.effective == pytest.approx(total**2 / math.fsum(values**2), rel=1e-12)
    tenth = math.fsum(np.sort(values)[::-1][:123]) / total
    assert found.tenth == pytest.approx(tenth, rel=1 / 256)
    assert [layer.name for layer in found.layers] == list(omega)
    for layer in found.layers:
        own = double(omega[layer.name])
        assert layer.shape == tuple(omega[layer.name].shape)
        assert (layer.numbers, layer.important) == (len(own), int((own > 0).sum()))
        assert layer.mean == pytest.approx(own.mean(), rel=1e-12)
        assert layer.median == np.sort(own)[(len(own) - 1) // 2]
        assert layer.largest == own.max()
        assert layer.share == pytest.approx(own.sum() / total, rel=1e-12)
    assert sum(layer.share for layer in found.layers) == pytest.approx(1.0, rel=1e-12)
    decades = [Decimal(value).adjusted() for value in values.tolist() if value > 0]
    assert dict(found.decades) == {k: decades.count(k) for k in range(min(decades), max(decades) + 1)}
    assert [each.omega for each in found.top] == np.sort(values)[::-1][:10].tolist()
    assert all(omega[each.name][each.index].item() == each.omega for each in found.top)


def test_the_largest_tenth_where_its_end_is_between_equal_numbers() -> None:
    assert inspection({"w": torch.ones(1000)}).tenth == pytest.approx(0.1, rel=1e-12)
    steps = torch.tensor([3.0] * 5 + [2.0] * 15 + [0.0] * 80)
    assert inspection({"w": steps}).tenth == pytest.approx((5 * 3 + 5 * 2) / (5 * 3 + 15 * 2), rel=1e-12)
    assert inspection({"w": torch.tensor([1.0, 3.0])}).tenth == 0.75  # of two numbers, a tenth is one
    one = torch.zeros(30)
    one[7] = 5.0
    assert (inspection({"w": one}).tenth, inspection({"w": one}).effective) == (1.0, 1.0)


def test_powers_of_ten_begin_their_decade() -> None:
    powers = {k: float(f"1e{k}") for k in (-323, -308, -5, 0, 22, 23, 308)}
    for k, power in powers.items():
        below = math.nextafter(power, 0.0)
        assert dict(inspection({"w": torch.tensor([power], dtype=torch.float64)}).decades) == {k: 1}
        assert dict(inspection({"w": torch.tensor([below], dtype=torch.float64)}).decades) == {k - 1: 1}
    assert dict(inspection({"w": torch.tensor([1e-3, 2.0, 0.0])}).decades) == {-3: 1, -2: 0, -1: 0, 0: 1}


def test_numbers_whose_squares_are_no_float64() -> None:
    found = inspection({"w": torch.tensor([1e300, 1e300, 5e-324], dtype=torch.float64)})
    assert (found.effective, found.total, found.layers[0].largest) == (2.0, 2e300, 1e300)
    tiny = inspection({"w": torch.tensor([1e-300, 1e-300], dtype=torch.float64)})
    assert (tiny.effective, tiny.layers[0].mean) == (2.0, 1e-300)
    largest = torch.finfo(torch.float64).max
    assert inspection({"w": torch.full((4,), largest, dtype=torch.float64)}).layers[0].mean == largest


@pytest.mark.parametrize(
    "omega", [{}, {"w": torch.zeros(2, 3)}, {"w": -torch.zeros(2)}, {"w": torch.zeros(0, 4)}], ids=str
)
def test_without_importance_there_is_nothing_to_rank(omega: dict[str, Tensor]) -> None:
    found = inspection(omega, tasks=0)
    count = sum(t.numel() for t in omega.values())
    assert (found.numbers, found.zeros, found.top, dict(found.decades)) == (count, count, (), {})
    assert (found.total, found.effective, found.tenth) == (0.0, 0.0, 0.0)
    assert "largest tenth" not in str(found)
    assert "-0" not in str(found)


def test_indices_of_every_number_of_dimensions() -> None:
    for shape in ((), (5,), (2, 3), (2, 1, 3, 4)):
        omega = torch.zeros(shape)
        index = tuple(length - 1 for length in shape)
        omega[index] = 1.0
        (top,) = inspection({"w": omega}).top
        assert top.index == index


def test_top_counts_what_has_importance_alone() -> None:
    omega = {"a": torch.tensor([0.0, 2.0]), "b": torch.tensor([1.0, 0.0, 3.0])}
    found = [(each.name, each.index, each.omega) for each in inspection(omega).top]
    assert found == [("b", (2,), 3.0), ("a", (1,), 2.0), ("b", (0,), 1.0)]
    assert [each.omega for each in inspection(omega, top=1).top] == [3.0]
    assert inspection(omega, top=0).top == ()


# Of a file.


def test_a_file_of_synapses(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=0.25, xi=0.125)
    for _ in range(2):
        model(torch.randn(8, 3)).square().sum().backward()
        optimizer.step()
        synapses.consolidate()
    optimizer.step()
    synapses.save(tmp_path / "a.safetensors")
    found = si.inspect_importance(str(tmp_path / "a.safetensors"), top=1)
    assert (found.estimator, found.settings, found.c) == ("path_integral", {"xi": 0.125}, 0.25)
    assert (found.tasks, found.steps) == (2, 1)
    assert found.writer == f"synaptic-intelligence {si.__version__}, torch {torch.__version__}"
    assert [layer.name for layer in found.layers] == [name for name, _ in model.named_parameters()]
    (top,) = found.top
    assert synapses.omega[top.name][top.index].item() == max(t.max().item() for t in synapses.omega.values())
    with pytest.raises(FrozenInstanceError):
        found.total = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("top", [-1, 2.5, True, "all"])
def test_top_must_be_a_count(tmp_path: Path, top: Any) -> None:
    with pytest.raises(ValueError, match="top must be a whole number from 0 up"):
        si.inspect_importance(tmp_path / "a.safetensors", top=top)


def test_the_file_stays_as_it_was(tmp_path: Path) -> None:
    write_importance(file_of({"w": uneven(10)}), tmp_path / "a.safetensors")
    before = (tmp_path / "a.safetensors").read_bytes()
    si.inspect_importance(tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == before


# As text.


def test_the_page() -> None:
    omega = {"body.weight": torch.tensor([[0.0, 0.25, 1.5], [0.0, 0.0, 0.25]]), "gain": torch.tensor(2.0)}
    found = inspection(omega, top=2, steps=3, c=(0.0, 0.5), tasks=2, settings={"kind": "exact"}, estimator="fisher")
    assert str(found).splitlines() == [
        "fisher, kind = exact; c from 0 to 0.5, for 2 replicates",
        "2 tasks consolidated, and 3 steps of the next; written by somebody",
        "7 numbers in 2 parameters, 57.1% of them with omega > 0; sum of omega 4",
        "as concentrated as 3 equal numbers; the largest tenth holds 50.0% of the sum",
        "",
        "parameter     shape  omega > 0   mean  median  largest  share",
        "body.weight     2x3      50.0%  0.333       0      1.5  50.0%",
        "gain         scalar     100.0%      2       2        2  50.0%",
        "",
        "log10 omega  numbers",
        "omega = 0          3",
        f"-1 to 0            2  {'#' * 40}",
        f"0 to 1             2  {'#' * 40}",
        "",
        "most important   index  omega",
        "gain                []      2",
        "body.weight     [0, 2]    1.5",
    ]


def test_bars_are_in_proportion_and_none_is_lost() -> None:
    found = inspection({"w": torch.tensor([0.2] * 1000 + [2.0] * 500 + [20.0] + [2000.0])})
    assert [cells[0] for cells in histogram_cells(found)[2:]] == ["-1 to 0", "0 to 1", "1 to 2", "2 to 3", "3 to 4"]
    assert bars(found, 40) == [0, 0, 40, 20, 1, 0, 1]


@pytest.mark.parametrize(
    "evil",
    ["\x1b[2J", "\n", "\r", "\x07", "\u202e", "\x9b31m", "\x00", "x" * 100_000],
    ids=lambda evil: ascii(evil[:9]),
)
def test_a_page_holds_no_control_characters(tmp_path: Path, evil: str) -> None:
    file = file_of({f"w{evil}": torch.ones(1)}, estimator=f"me{evil}", settings={f"k{evil}": f"v{evil}"})
    write_importance(file, tmp_path / "a.safetensors")
    assert read_importance(tmp_path / "a.safetensors").estimator == f"me{evil}"
    page = str(si.inspect_importance(tmp_path / "a.safetensors"))
    assert all(line.isprintable() for line in page.split("\n"))
    assert page.count("\n") == str(inspection({"w": torch.ones(1)})).count("\n")
    assert len(page) < 5_000
