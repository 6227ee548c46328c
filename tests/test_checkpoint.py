"""Importance files: what is written comes back to the bit, and what is damaged is refused with a documented error."""

from __future__ import annotations

import json
import os
import re
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from disk import no_file_larger_than
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import synaptic_intelligence as si
from synaptic_intelligence.checkpoint import read_importance, write_importance
from synaptic_intelligence.importance_file import ImportanceFile, from_state_dict, to_state_dict

KEY = "synaptic_intelligence"


def example(*, mid_task: bool = True) -> ImportanceFile:
    """Tensors of many shapes and both dtypes, with numbers that only exact storage keeps."""
    shapes = {"w": (2, 3), "deep.name.weight": (2, 1, 3, 1), "scalar": (), "empty": (0, 4), "a/b": (3,)}

    def tensors(scale: float) -> dict[str, Tensor]:
        named = {name: scale * torch.rand(shape) for name, shape in shapes.items()}
        return {**named, "wide": scale * torch.rand(4, dtype=torch.float64)}

    path = tensors(-1e-42) if mid_task else {}  # subnormal numbers
    return ImportanceFile("path_integral", {"xi": 0.1}, 0.3, 2, 7 if mid_task else 0, tensors(1e30), tensors(1.0), path)


def assert_equal(found: ImportanceFile, expected: ImportanceFile) -> None:
    for field in ("estimator", "settings", "c", "tasks", "steps"):
        assert getattr(found, field) == getattr(expected, field)
        assert type(getattr(found, field)) is type(getattr(expected, field))
    for kind in ("omega", "anchor", "path"):
        tensors, wanted = getattr(found, kind), getattr(expected, kind)
        assert set(tensors) == set(wanted)
        for name, t in wanted.items():
            assert tensors[name].dtype == t.dtype
            assert torch.equal(tensors[name], t)


def header_of(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as reader:
        return dict(json.loads(reader.metadata()[KEY]))


def small(path: Path) -> Path:
    """Write a small valid file."""
    omega, anchor = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([0.5, -0.5])}
    write_importance(ImportanceFile("path_integral", {"xi": 0.1}, 0.3, 1, 0, omega, anchor, {}), path)
    return path


def rewrite(
    path: Path, *, header: dict[str, Any] | str | None = None, tensors: dict[str, Tensor] | None = None
) -> None:
    """Write a small valid file but for some fields of its header, the whole header, or its tensors."""
    small(path)
    fields, old = header_of(path), load_file(path)
    text = header if isinstance(header, str) else json.dumps({**fields, **(header or {})})
    save_file(old if tensors is None else tensors, path, metadata={KEY: text})


# Round trips.


@pytest.mark.parametrize("mid_task", [False, True], ids=["between-tasks", "in-mid-task"])
def test_a_file_comes_back_to_the_bit(tmp_path: Path, mid_task: bool) -> None:
    file = example(mid_task=mid_task)
    write_importance(file, tmp_path / "a.safetensors")
    assert_equal(read_importance(tmp_path / "a.safetensors"), file)


def test_tensors_that_are_views_come_back_as_they_look(tmp_path: Path) -> None:
    whole = torch.rand(4, 6)
    views = {"transposed": whole.T, "strided": whole[::2, ::3], "expanded": whole[:1].expand(3, 6)}
    file = replace(example(), omega=views, anchor=views, path={}, steps=0)
    write_importance(file, tmp_path / "a.safetensors")
    assert_equal(read_importance(tmp_path / "a.safetensors"), file)


@pytest.mark.parametrize("name", ["a/b", "omega/a", "path/", "../../etc/passwd", " ", "ω", "__metadata__", "x" * 300])
def test_any_name_comes_back(tmp_path: Path, name: str) -> None:
    one = {name: torch.ones(2)}
    file = ImportanceFile("path_integral", {"xi": 0.1}, 1.0, 1, 3, one, {name: torch.zeros(2)}, {name: -torch.ones(2)})
    write_importance(file, tmp_path / "a.safetensors")
    assert_equal(read_importance(tmp_path / "a.safetensors"), file)
    assert [found.name for found in tmp_path.iterdir()] == ["a.safetensors"]


def test_metadata_says_what_the_file_is(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=0.25, xi=0.125)
    for _ in range(2):
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        synapses.consolidate()
    optimizer.step()
    synapses.save(str(tmp_path / "a.safetensors"))  # a string is a path too
    header = header_of(tmp_path / "a.safetensors")
    assert header.pop("way_back") > 0
    assert header == {
        "schema": 1,
        "estimator": "path_integral",
        "settings": {"xi": 0.125},
        "c": 0.25,
        "tasks": 2,
        "steps": 1,
        "origin": "",
        "own_c": False,
        "shapes": {"weight": [2, 3], "bias": [2]},
        "library": si.__version__,
        "torch": torch.__version__,
    }
    with safe_open(tmp_path / "a.safetensors", framework="pt") as reader:
        assert set(reader.metadata()) == {KEY}
        kinds = ("omega", "anchor", "path")
        assert set(reader.keys()) == {f"{kind}/{name}" for kind in kinds for name in ("weight", "bias")}


def test_between_tasks_no_path_is_written(tmp_path: Path) -> None:
    p = nn.Parameter(torch.ones(2))
    si.SynapticIntelligence([("w", p)], torch.optim.SGD([p], lr=0.1), c=1.0, xi=0.1).save(tmp_path / "a.safetensors")
    assert set(load_file(tmp_path / "a.safetensors")) == {"omega/w", "anchor/w"}


def test_loading_keeps_the_order_of_the_parameters(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    synapses = si.SynapticIntelligence(model.named_parameters(), torch.optim.SGD(model.parameters()), c=1.0, xi=0.1)
    names = [name for name, _ in model.named_parameters()]
    assert names != sorted(names)
    synapses.save(tmp_path / "a.safetensors")
    synapses.load(tmp_path / "a.safetensors")
    assert [list(tensors) for tensors in (synapses.omega, synapses.anchor, synapses.path)] == [names] * 3


def test_loading_takes_the_files_strength_with_a_warning(tmp_path: Path) -> None:
    p = nn.Parameter(torch.ones(2))
    synapses = si.SynapticIntelligence([("w", p)], torch.optim.SGD([p], lr=0.1), c=1.0, xi=0.1)
    small(tmp_path / "a.safetensors")
    with pytest.warns(si.SynapseWarning, match=r"c is 0\.3 in .*a\.safetensors and was 1\.0"):
        synapses.load(tmp_path / "a.safetensors")
    assert synapses.c == 0.3
    assert synapses.tasks == 1
    assert p.tolist() == [1.0, 1.0]  # the weights stay, and are pulled to the anchor:
    assert synapses.penalty().item() == pytest.approx(0.3 * (1 * 0.5**2 + 2 * 1.5**2))


# Writing is one step.


@pytest.mark.parametrize("size", [0, 10, 4096])
def test_a_full_disk_keeps_the_old_file_and_leaves_nothing_behind(tmp_path: Path, size: int) -> None:
    path = small(tmp_path / "a.safetensors")
    before = path.read_bytes()
    large = replace(example(), omega={"w": torch.ones(10_000)}, anchor={"w": torch.ones(10_000)}, path={})
    with no_file_larger_than(size), pytest.raises(OSError, match=re.escape(str(path))):
        write_importance(large, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_while_writing_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(tensors: dict[str, Tensor], filename: Path, metadata: dict[str, str]) -> None:
        Path(filename).write_bytes(b"half a file")
        raise KeyboardInterrupt

    path = small(tmp_path / "a.safetensors")
    before = path.read_bytes()
    monkeypatch.setattr("synaptic_intelligence.checkpoint.save_file", half)
    with pytest.raises(KeyboardInterrupt):
        write_importance(example(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_writing_over_an_old_file_replaces_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_importance(example(), path)
    small(path)
    assert set(read_importance(path).omega) == {"w"}
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_take_the_file_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "missing" / "a.safetensors", tmp_path / "file" / "a.safetensors", tmp_path / "folder"):
        with pytest.raises(OSError, match=re.escape(str(path.parent))):
            write_importance(example(), path)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["file", "folder"]
    assert list((tmp_path / "folder").iterdir()) == []


# Reading refuses what is not whole.


def refused(path: Path, match: str = ".") -> None:
    """The file is refused with a ValueError that names it, and synapses that load it stay as they were."""
    with pytest.raises(ValueError, match=match) as caught:
        read_importance(path)
    assert not isinstance(caught.value, UnicodeDecodeError)
    assert str(path) in str(caught.value)
    p = nn.Parameter(torch.tensor([3.0, 4.0]))
    synapses = si.SynapticIntelligence([("w", p)], torch.optim.SGD([p], lr=0.1), c=0.3, xi=0.1)
    with pytest.raises(ValueError, match=match):
        synapses.load(path)
    assert synapses.tasks == 0
    assert synapses.anchor["w"].tolist() == [3.0, 4.0]


def test_a_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_importance(example(), path)
    whole = path.read_bytes()
    lengths = {*range(12), *range(12, len(whole), 37), len(whole) - 1}
    for length in sorted(lengths):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="damaged or no safetensors file") as caught:
            read_importance(path)
        assert str(path) in str(caught.value)


def test_a_file_with_more_at_its_end_is_refused(tmp_path: Path) -> None:
    path = small(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes() + b"\0")
    refused(path, "damaged")


def test_a_file_with_one_byte_changed_is_refused_or_read_as_numbers(tmp_path: Path) -> None:
    path = small(tmp_path / "a.safetensors")
    whole = path.read_bytes()
    refusals = 0
    for position in range(0, len(whole), 3):
        for flip in (0x01, 0x80):
            changed = bytearray(whole)
            changed[position] ^= flip
            path.write_bytes(changed)
            try:
                file = read_importance(path)
            except ValueError:
                refusals += 1
            else:
                assert all(bool(t.isfinite().all()) for t in (*file.omega.values(), *file.anchor.values()))
    assert refusals > 100


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\xff" * 64, b"PK\x03\x04 a zip", b'{"json": 1}', b"\n"])
def test_another_kind_of_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    refused(path, "damaged or no safetensors file")


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"omega/w": torch.ones(2)}, tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", "damaged or no safetensors file")


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}], ids=str)
def test_someone_elses_safetensors_are_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"omega/w": torch.ones(2), "anchor/w": torch.ones(2)}, tmp_path / "a.safetensors", metadata=metadata)
    refused(tmp_path / "a.safetensors", "something else")


@pytest.mark.parametrize("schema", [0, 2, "1", None, [1], 1.5])
def test_another_schema_is_refused(tmp_path: Path, schema: Any) -> None:
    rewrite(tmp_path / "a.safetensors", header={"schema": schema})
    refused(tmp_path / "a.safetensors", re.escape(f"schema {schema!r}"))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "1", '"text"', "[" * 100_000, '{"schema": 1}', '{"schema": ' + "9" * 5000 + "}"],
    ids=["empty", "cut-off", "list", "null", "number", "text", "deep", "almost-empty", "many-digits"],
)
def test_a_header_that_is_no_header_is_refused(tmp_path: Path, text: str) -> None:
    rewrite(tmp_path / "a.safetensors", header=text)
    refused(tmp_path / "a.safetensors")


def wrong_fields() -> list[Any]:
    values: dict[str, list[Any]] = {
        "estimator": [None, 1, ["path_integral"], {}],
        "settings": [None, 1, [], "xi", {"xi": None}, {"xi": [0.1]}, {"xi": {"a": 1}}],
        "c": [None, "0.1", True, -0.1, float("nan"), float("inf"), -float("inf"), [], [[1.0]], [0.1, -0.1], 10**400],
        "tasks": [None, "1", 1.0, True, -1, float("nan"), [1]],
        "steps": [None, "1", 1.0, False, -1, float("inf"), {}],
        "shapes": [None, 1, {}, [["w", [2]]], {"w": [3]}, {"w": 2}, {"w": [2], "v": [1]}, {"v": [2]}],
    }
    return [
        pytest.param(key, wrong, id=f"{key}={str(wrong)[:20]}") for key, wrongs in values.items() for wrong in wrongs
    ]


@pytest.mark.parametrize(("key", "value"), wrong_fields())
def test_a_header_field_of_the_wrong_type_or_value_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    rewrite(tmp_path / "a.safetensors", header={key: value})
    refused(tmp_path / "a.safetensors")


@pytest.mark.parametrize("key", ["schema", "estimator", "settings", "c", "tasks", "steps", "shapes"])
def test_a_header_field_that_is_missing_is_refused(tmp_path: Path, key: str) -> None:
    path = small(tmp_path / "a.safetensors")
    fields = header_of(path)
    del fields[key]
    rewrite(path, header=json.dumps(fields))
    refused(path)


GOOD = {"omega/w": torch.tensor([1.0, 2.0]), "anchor/w": torch.tensor([0.5, -0.5])}


@pytest.mark.parametrize(
    "tensors",
    [
        pytest.param({**GOOD, "omega/w": torch.tensor([1.0, torch.nan])}, id="omega-nan"),
        pytest.param({**GOOD, "omega/w": torch.tensor([1.0, torch.inf])}, id="omega-infinite"),
        pytest.param({**GOOD, "omega/w": torch.tensor([1.0, -1e-30])}, id="omega-negative"),
        pytest.param({**GOOD, "anchor/w": torch.tensor([1.0, torch.nan])}, id="anchor-nan"),
        pytest.param({**GOOD, "anchor/w": torch.tensor([1.0, -torch.inf])}, id="anchor-infinite"),
        pytest.param({**GOOD, "path/w": torch.tensor([1.0, torch.nan])}, id="path-nan"),
        pytest.param({**GOOD, "omega/w": torch.tensor([1, 2])}, id="omega-integer"),
        pytest.param({**GOOD, "omega/w": torch.tensor([True, False])}, id="omega-boolean"),
        pytest.param({**GOOD, "omega/w": torch.tensor([1j, 0j])}, id="omega-complex"),
        pytest.param({**GOOD, "omega/w": torch.tensor([1.0, torch.nan]).to(torch.float8_e4m3fn)}, id="omega-float8"),
        pytest.param({**GOOD, "anchor/w": torch.tensor([1.0, 2.0]).to(torch.float8_e5m2)}, id="anchor-float8"),
        pytest.param({**GOOD, "anchor/w": torch.ones(3)}, id="anchor-of-other-shape"),
        pytest.param({**GOOD, "path/w": torch.ones(2, 1)}, id="path-of-other-shape"),
        pytest.param({**GOOD, "path/v": torch.ones(2)}, id="path-of-other-name"),
        pytest.param({"omega/w": torch.ones(2)}, id="no-anchor"),
        pytest.param({"anchor/w": torch.ones(2)}, id="no-omega"),
        pytest.param({}, id="no-tensors"),
        pytest.param({**GOOD, "anchor/v": torch.ones(1)}, id="one-anchor-too-many"),
        pytest.param({**GOOD, "w": torch.ones(1)}, id="no-kind"),
        pytest.param({**GOOD, "omega/": torch.ones(1)}, id="no-name"),
        pytest.param({**GOOD, "/w": torch.ones(1)}, id="empty-kind"),
        pytest.param({**GOOD, "": torch.ones(1)}, id="empty"),
        pytest.param({**GOOD, "fisher/w": torch.ones(1)}, id="strange-kind"),
        pytest.param({**GOOD, "../omega/w": torch.ones(1)}, id="up-the-tree"),
        pytest.param({**GOOD, "Omega/w": torch.ones(1)}, id="capital"),
        pytest.param({**GOOD, "\0omega/w": torch.ones(1)}, id="null-byte"),
    ],
)
def test_tensors_that_no_importance_file_has_are_refused(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    rewrite(tmp_path / "a.safetensors", tensors=tensors)
    refused(tmp_path / "a.safetensors")


def test_steps_without_a_path_are_refused_by_the_path_integral(tmp_path: Path) -> None:
    p = nn.Parameter(torch.ones(2))
    synapses = si.SynapticIntelligence([("w", p)], torch.optim.SGD([p], lr=0.1), c=0.3, xi=0.1)
    rewrite(tmp_path / "a.safetensors", header={"steps": 3})
    with pytest.raises((si.SynapseError, ValueError), match="path"):
        synapses.load(tmp_path / "a.safetensors")


def test_what_is_not_a_file_is_not_found(tmp_path: Path) -> None:
    file = small(tmp_path / "a.safetensors")
    for path in (tmp_path, tmp_path / "missing", tmp_path / "missing" / "a", file / "a"):
        with pytest.raises(FileNotFoundError, match=re.escape(str(path))):
            read_importance(path)


def other(path: Path, **fields: Any) -> Path:
    file = ImportanceFile("path_integral", {"xi": 0.1}, 0.3, 1, 0, {"w": torch.ones(2)}, {"w": torch.ones(2)}, {})
    write_importance(replace(file, **fields), path)
    return path


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"estimator": "fisher"}, "of fisher with"),
        ({"settings": {"xi": 0.2}}, r"0\.2"),
        ({"settings": {"xi": float("nan")}}, "nan"),
        ({"settings": {}}, "make them alike"),
        ({"settings": {"xi": "0.1"}}, "make them alike"),
        ({"omega": {"v": torch.ones(2)}, "anchor": {"v": torch.ones(2)}}, r"\['v', 'w'\]"),
        ({"omega": {"w": torch.ones(3)}, "anchor": {"w": torch.ones(3)}}, r"\['w'\]"),
        ({"omega": {}, "anchor": {}}, r"\['w'\]"),
    ],
    ids=str,
)
def test_a_good_file_of_other_synapses_changes_nothing(tmp_path: Path, fields: dict[str, Any], match: str) -> None:
    p = nn.Parameter(torch.tensor([3.0, 4.0]))
    synapses = si.SynapticIntelligence([("w", p)], torch.optim.SGD([p], lr=0.1), c=1.0, xi=0.1)
    with pytest.raises(si.SynapseError, match=match):
        synapses.load(other(tmp_path / "a.safetensors", **fields))
    assert (synapses.c, synapses.tasks) == (1.0, 0)
    assert synapses.anchor["w"].tolist() == [3.0, 4.0]


def test_a_float64_file_loads_into_float32_synapses(tmp_path: Path) -> None:
    p = nn.Parameter(torch.tensor([3.0, 4.0]))
    synapses = si.SynapticIntelligence([("w", p)], torch.optim.SGD([p], lr=0.1), c=0.3, xi=0.1)
    wide = {"w": torch.tensor([1.0, 0.1], dtype=torch.float64)}
    synapses.load(other(tmp_path / "a.safetensors", omega=wide, anchor={"w": wide["w"].clone()}))
    assert synapses.omega["w"].dtype == torch.float32
    assert torch.equal(synapses.omega["w"], wide["w"].float())


def damaged_states() -> list[Any]:
    def change(**fields: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
        return lambda state: {**state, **fields}

    return [
        pytest.param(change(omega={"w": torch.tensor([1.0, -1.0])}), id="omega-negative"),
        pytest.param(change(omega={"w": torch.tensor([1.0, torch.nan])}), id="omega-nan"),
        pytest.param(change(omega=None), id="omega-none"),
        pytest.param(change(omega={"w": [1.0, 2.0]}), id="omega-lists"),
        pytest.param(change(anchor=[("w", torch.ones(2))]), id="anchor-pairs"),
        pytest.param(change(tasks="1"), id="tasks-text"),
        pytest.param(change(tasks=-1), id="tasks-negative"),
        pytest.param(change(steps=None), id="steps-none"),
        pytest.param(change(steps=2.5), id="steps-fraction"),
        pytest.param(change(c="0.3"), id="c-text"),
        pytest.param(change(c=-1.0), id="c-negative"),
        pytest.param(change(stranger=1), id="one-key-too-many"),
        pytest.param(lambda state: {key: state[key] for key in state if key != "anchor"}, id="no-anchor"),
    ]


@pytest.mark.parametrize("damage", damaged_states())
def test_a_damaged_state_changes_nothing(damage: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    p = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = torch.optim.SGD([p], lr=0.1)
    synapses = si.SynapticIntelligence([("w", p)], optimizer, c=0.3, xi=0.1)
    for _ in range(2):
        p.grad = torch.ones(2)
        optimizer.step()
        state = synapses.state_dict()
        if not synapses.tasks:
            synapses.consolidate()
    with pytest.raises(si.SynapseError):
        synapses.load_state_dict(damage(state))
    assert (synapses.c, synapses.tasks, synapses.state_dict()["steps"]) == (0.3, 1, 1)
    assert synapses.anchor["w"].tolist() == pytest.approx([2.9, 3.9])
    assert synapses.omega["w"].tolist() == pytest.approx([0.1 / (0.01 + 0.1)] * 2)


# Files made to harm.


def crafted(path: Path, tensors: dict[str, dict[str, Any]], shapes: Any, data: bytes, **header: Any) -> Path:
    """Write a file as safetensors are laid out, whatever its header says: a length, JSON, and the numbers."""
    fields = {"schema": 1, "estimator": "path_integral", "settings": {"xi": 0.1}, "c": 0.3, "tasks": 1, "steps": 0}
    metadata = {KEY: json.dumps({**fields, "shapes": shapes, **header})}
    text = json.dumps({"__metadata__": metadata, **tensors}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def crafted_shape(path: Path, shape: list[int], dtype: str = "F32", size: int = 0) -> Path:
    tensors = {
        f"{kind}/w": {"dtype": dtype, "shape": shape, "data_offsets": [place * size, (place + 1) * size]}
        for place, kind in enumerate(("omega", "anchor"))
    }
    return crafted(path, tensors, {"w": shape}, bytes(2 * size))


@pytest.mark.parametrize(
    "shape",
    [[2**63, 0], [0, 2**64 - 1], [0, 2**63 - 1, 2**63 - 1], [2**32, 2**31, 0], [2**64, 0], [-1, 0]],
    ids=str,
)
def test_an_empty_tensor_of_impossible_shape_is_refused(tmp_path: Path, shape: list[int]) -> None:
    refused(crafted_shape(tmp_path / "a.safetensors", shape))


@pytest.mark.parametrize("dimensions", [65, 128, 100_000])
def test_more_dimensions_than_torch_has_are_refused_at_once(tmp_path: Path, dimensions: int) -> None:
    refused(crafted_shape(tmp_path / "a.safetensors", [1] * dimensions, size=4), "which no importance file has")


def test_the_most_dimensions_that_torch_has_are_read(tmp_path: Path) -> None:
    file = read_importance(crafted_shape(tmp_path / "a.safetensors", [1] * 64, size=4))
    assert file.omega["w"].ndim == 64
    assert read_importance(crafted_shape(tmp_path / "a.safetensors", [2**62, 0])).omega["w"].numel() == 0


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        *(("BOOL", 1), ("U8", 1), ("I8", 1), ("F8_E5M2", 1), ("F8_E4M3", 1), ("F8_E8M0", 1), ("F4", 1)),
        *(("I16", 2), ("U16", 2), ("F16", 2), ("I32", 4), ("U32", 4), ("I64", 8), ("U64", 8), ("C64", 8)),
        *(("F6_E2M3", 3), ("F32\x1b[2J", 4), ("x" * 100_000, 4)),
    ],
    ids=lambda value: ascii(value)[:12],
)
def test_every_other_dtype_is_refused(tmp_path: Path, dtype: str, size: int) -> None:
    shape = [4] if dtype.startswith("F6") else [2] if dtype == "F4" else [1]
    refused(crafted_shape(tmp_path / "a.safetensors", shape, dtype, size))


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = small(tmp_path / "a.safetensors")
    text = json.dumps(header_of(path))
    rewrite(path, header=text[:-1] + ', "tasks": 7}')
    refused(path, "a name stands twice")


@pytest.mark.parametrize("depth", [*range(900, 1000, 9), 3_000_000])
@pytest.mark.parametrize("key", ["c", "settings", "shapes", "schema", "other"])
def test_a_header_of_any_depth_is_refused_or_read(tmp_path: Path, key: str, depth: int) -> None:
    path = small(tmp_path / "a.safetensors")
    fields = header_of(path)
    fields.pop(key, None)
    text = json.dumps(fields)[:-1] + f', "{key}": ' + "[" * depth + "]" * depth + "}"
    rewrite(path, header=text)
    if key != "other" or depth > 1000:
        refused(path)


@pytest.mark.parametrize("digits", [15, 300, 400, 4299, 4301, 100_000])
@pytest.mark.parametrize("key", ["c", "tasks", "steps", "schema"])
def test_a_number_of_any_length_is_refused_or_read(tmp_path: Path, key: str, digits: int) -> None:
    path = small(tmp_path / "a.safetensors")
    fields = header_of(path)
    del fields[key]
    rewrite(path, header=json.dumps(fields)[:-1] + f', "{key}": ' + "9" * digits + "}")
    if digits > 309 or key == "schema" or (digits > 15 and key != "c"):
        refused(path)
    else:
        assert getattr(read_importance(path), key) == pytest.approx(10.0**digits)


EVIL = "\x1b[2J\x1b]0;owned\x07\n\u202e\x9b"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: crafted_shape(path, [1], dtype=EVIL, size=4),
        lambda path: crafted_shape(path, [1], dtype="x" * 1_000_000, size=4),
        lambda path: crafted(path, {f"{EVIL}/w": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}, {}, bytes(4)),
        lambda path: crafted(
            path, {f"omega/{EVIL}": {"dtype": "I32", "shape": [], "data_offsets": [0, 4]}}, {}, bytes(4)
        ),
        lambda path: crafted(path, {}, {}, b"", schema=EVIL),
        lambda path: crafted(path, {}, {}, b"", c=[EVIL] * 100_000),
        lambda path: crafted(path, {}, {}, b"", tasks={EVIL: EVIL}),
        lambda path: crafted(path, {}, {}, b"", estimator=[EVIL]),
        lambda path: crafted(path, {}, {}, b"", settings={EVIL: [EVIL]}),
        lambda path: crafted(path, {}, {EVIL: [1]}, b""),
    ],
)
def test_what_is_said_of_a_file_is_short_and_steers_no_terminal(tmp_path: Path, spoil: Callable[[Path], Path]) -> None:
    path = spoil(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        read_importance(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < len(str(path)) + 600
    # A traceback shows what it came from as well.
    assert not {*"".join(traceback.format_exception(caught.value))} & {*EVIL.replace("\n", "")} - {*"[2J]0;owned"}


@pytest.mark.parametrize(
    "make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to(path)], ids=["fifo", "folder", "loop"]
)
def test_what_could_be_waited_for_is_no_importance_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "a.safetensors")
    with pytest.raises(FileNotFoundError, match="no importance file at"):
        read_importance(tmp_path / "a.safetensors")


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small(tmp_path / "a.safetensors")

    def forbidden(self: Path, mode: str) -> None:  # as for anybody but root, whom no mode stops
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(PermissionError, match=re.escape(str(path))):
        read_importance(path)


@pytest.mark.parametrize(
    "c", [torch.ones(1).expand(10**13), torch.ones(2, 2), torch.ones(1, device="meta")], ids=["vast", "square", "meta"]
)
def test_a_strength_that_is_no_row_of_numbers_is_refused(c: torch.Tensor) -> None:
    state = to_state_dict(ImportanceFile("path_integral", {"xi": 0.1}, 1.0, 0, 0, {}, {}, {}))
    with pytest.raises(si.SynapseError, match="c=a tensor"):
        from_state_dict({**state, "c": c})


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
@pytest.mark.parametrize("kind", ["sparse", "vast", "meta"])
@pytest.mark.parametrize(
    "key", ["schema", "tasks", "steps", "estimator", "settings", "untouched", "origin", "way_back"]
)
def test_a_tensor_where_none_can_be_is_refused(key: str, kind: str) -> None:
    one = torch.ones(1, 1)
    value = {"sparse": one.to_sparse_csr(), "vast": one[0].expand(10**13), "meta": one.to("meta")}[kind]
    state = to_state_dict(ImportanceFile("path_integral", {"xi": 0.1}, 1.0, 0, 0, {}, {}, {}))
    with pytest.raises(si.SynapseError, match="a tensor"):
        from_state_dict({**state, key: value})
    with pytest.raises(si.SynapseError, match=r"settings={'xi': a tensor"):
        from_state_dict({**state, "settings": {"xi": value}})


def test_a_file_says_whether_groups_had_strengths_of_their_own(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    for own in (False, True):
        groups: list[dict[str, Any]] = [{"params": list(layer.parameters())} for layer in model]
        groups[1].update({"c": 5.0} if own else {})
        optimizer = torch.optim.SGD(groups, lr=0.1)
        synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=0.5, xi=0.1)
        synapses.save(tmp_path / "a.safetensors")
        assert read_importance(tmp_path / "a.safetensors").own_c is own
        assert from_state_dict(synapses.state_dict()).own_c is own
        told = str(si.inspect_importance(tmp_path / "a.safetensors")).splitlines()[0]
        assert told == "path_integral, xi = 0.1; c = 0.5" + ", but for parameter groups with a c of their own" * own
        synapses.detach()


def test_files_and_states_from_before_there_was_an_origin_are_read(tmp_path: Path) -> None:
    path = small(tmp_path / "a.safetensors")
    new, added = read_importance(path), ("origin", "way_back", "own_c")
    header = header_of(path)
    rewrite(path, header={key: value for key, value in header.items() if key not in added})
    read = read_importance(path)
    assert (read.origin, read.way_back, read.own_c) == ("", None, False)
    assert torch.equal(read.omega["w"], new.omega["w"])
    state = {key: value for key, value in to_state_dict(new).items() if key not in added}
    assert from_state_dict(state).own_c is False
