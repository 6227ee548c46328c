"""Surgery by name: against numpy, and against a network that had all its parts from the start."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracle import NaiveSynapses, assert_close, loss_of, same
from torch import Tensor, nn

import synaptic_intelligence as si
from synaptic_intelligence.importance_file import ImportanceFile, from_state_dict

Shapes = dict[str, tuple[int, ...]]
C, XI, RATE = 0.7, 0.1, 0.2


def parameters_of(shapes: Shapes, seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    made = {name: torch.randn(shape, generator=draw, dtype=torch.float64) for name, shape in shapes.items()}
    return {name: nn.Parameter(values.to(dtype)) for name, values in made.items()}


def file_of(parameters: Mapping[str, Tensor], **changes: Any) -> ImportanceFile:
    """What synapses remember that have these parameters, between two tasks."""
    draw = torch.Generator().manual_seed(9)
    anchor = {name: p.detach().to(torch.promote_types(p.dtype, torch.float32)) for name, p in parameters.items()}
    omega = {name: torch.rand(a.shape, generator=draw, dtype=torch.float64).to(a.dtype) for name, a in anchor.items()}
    given = {"tasks": 1, "steps": 0, "omega": omega, "anchor": anchor, "path": {}, **changes}
    return ImportanceFile("path_integral", {"xi": XI}, C, **given)


def grown(old: Mapping[str, Tensor], shapes: Shapes, *, copied: bool = True) -> dict[str, Tensor]:
    """New parameters; those that have a name in ``old`` hold its values where both overlap."""
    new = parameters_of(shapes, seed=1)
    with torch.no_grad():
        for name in [name for name in shapes if name in old and copied]:
            corner = tuple(slice(min(pair)) for pair in zip(old[name].shape, shapes[name], strict=True))
            new[name][corner] = old[name][corner]
    return new


# One tensor, any shape, against numpy.


def expected_of(old: np.ndarray, new: tuple[int, ...], otherwise: np.ndarray) -> np.ndarray:
    """Element for element: the old one, where there was one."""
    result = np.empty(new)
    for place in np.ndindex(*new):
        there = all(i < n for i, n in zip(place, old.shape, strict=True))
        result[place] = old[place] if there else otherwise[place]
    return result


@st.composite
def two_shapes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    dimensions = draw(st.integers(1, 4))
    sizes = st.tuples(*[st.integers(0, 4)] * dimensions)
    return draw(sizes), draw(sizes)


@settings(max_examples=150)
@given(two_shapes(), st.sampled_from([torch.float32, torch.float64]), st.booleans(), st.booleans())
def test_resized_in_any_dimensions_is_as_numpy_has_it(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], dtype: torch.dtype, coarse: bool, moved_before: bool
) -> None:
    was, now = shapes
    assume(was != now)
    old = parameters_of({"w": was}, dtype=dtype)
    file = file_of(old)
    if coarse:
        file = file_of(old, omega={"w": file.omega["w"].bfloat16()})
    if moved_before:  # the weights were not at their anchor, as after a load
        file = file_of(old, omega=file.omega, anchor={"w": file.anchor["w"] + 1})
    new = {name: p.to(dtype) for name, p in grown(old, {"w": now}).items()}
    found = si.Surgery(resized=["w"]).applied(file, new, old)
    present = new["w"].detach().numpy()
    omega = expected_of(file.omega["w"].double().numpy(), now, np.zeros(now))
    assert np.array_equal(found.omega["w"].double().numpy(), omega)
    assert np.array_equal(found.anchor["w"].numpy(), expected_of(file.anchor["w"].numpy(), now, present))
    assert (found.omega["w"].dtype, found.anchor["w"].dtype) == (file.omega["w"].dtype, dtype)
    assert found.omega["w"].shape == now


def test_nothing_that_is_given_is_changed() -> None:
    old = parameters_of({"a": (2, 3), "b": (4,), "c": (), "d": (2,)})
    file = file_of(old, path={name: torch.zeros_like(p) for name, p in old.items()})
    new = grown(old, {"a": (3, 2), "b": (4,), "c": (), "e": (5,)})
    with torch.no_grad():
        new["c"] += 1
    before = copy.deepcopy((file, new, old))
    surgery = si.Surgery(resized=["a"], removed=["d"], added=["e"], moved=["c"])
    found = surgery.applied(file, new, old)
    with torch.no_grad():
        for kind in (
            found.path,
            {name: found.anchor[name] for name in "ace"},
            {name: found.omega[name] for name in "ae"},
        ):
            for tensor in kind.values():
                tensor.fill_(7)  # what is new shares no memory with what was given
    for then, now in zip(before, (file, new, old), strict=True):
        assert same(vars_of(then), vars_of(now))
    assert found.omega["b"] is file.omega["b"]
    assert found.anchor["b"] is file.anchor["b"]
    assert found.omega["c"] is file.omega["c"]
    assert list(found.omega) == list(found.anchor) == list(found.path) == ["a", "b", "c", "e"]


def vars_of(given: Any) -> Any:
    if isinstance(given, ImportanceFile):
        return {name: dict(getattr(given, name)) for name in ("omega", "anchor", "path")}
    return {name: tensor.detach() for name, tensor in given.items()}


@pytest.mark.parametrize(("dtype", "wide"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_what_is_new_is_free_and_float32_or_wider(dtype: torch.dtype, wide: torch.dtype) -> None:
    old = parameters_of({"a": (2,), "b": (2,)}, dtype=dtype)
    new = parameters_of({"b": (3, 2), "c": ()}, seed=1, dtype=dtype)
    found = si.Surgery(replaced=["b"], added=["c"], removed=["a"]).applied(file_of(old), new)
    for name, parameter in new.items():
        assert torch.equal(found.anchor[name], parameter.detach().to(wide))
        assert found.anchor[name].dtype is found.omega[name].dtype is wide
        assert not found.omega[name].any()
        assert found.omega[name].shape == parameter.shape
        assert not found.anchor[name].requires_grad


def test_scalars_and_empty_tensors_are_kept() -> None:
    old = parameters_of({"gain": (), "none": (0, 3)})
    file = file_of(old)
    found = si.Surgery(renamed={"gain": "scale"}).applied(file, {"scale": old["gain"], "none": old["none"]})
    assert found.omega["scale"] is file.omega["gain"]
    assert found.omega["none"] is file.omega["none"]


# A network that had its new parts from the start.


class Reader(nn.Module):
    """Classes of bags of words: an embedding and a head, either of which may grow."""

    def __init__(self, words: int, classes: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, 5, dtype=torch.float64)
        self.hidden = nn.Linear(5, 7, dtype=torch.float64)
        self.head = nn.Linear(7, classes, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.hidden(self.words(x).mean(dim=1))))
        return logits


def reader() -> Reader:
    draw = torch.Generator().manual_seed(3)
    model = Reader(words=9, classes=6)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=draw, dtype=p.dtype) * 0.7)
    return model


def smaller(large: Reader) -> Reader:
    """The first six words and four classes of it, as a network of its own."""
    small = Reader(words=6, classes=4)
    with torch.no_grad():
        small.words.weight.copy_(large.words.weight[:6])
        small.hidden.load_state_dict(large.hidden.state_dict())
        small.head.weight.copy_(large.head.weight[:4])
        small.head.bias.copy_(large.head.bias[:4])
    return small


def larger(small: Reader, start: Reader) -> Reader:
    """A network with the small one's weights, and the others as they were at the start."""
    new = copy.deepcopy(start)
    with torch.no_grad():
        new.words.weight[:6] = small.words.weight
        new.hidden.load_state_dict(small.hidden.state_dict())
        new.head.weight[:4] = small.head.weight
        new.head.bias[:4] = small.head.bias
    return new


def bags(task: int) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(50 + task)
    words, classes = ((6, 4), (9, 6), (9, 6))[task]
    made = [torch.randint(words, (16, 3), generator=draw) for _ in range(12)]
    return [(x, (x.sum(dim=1) * (task + 2)) % classes) for x in made]


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.5)


def learn(model: Reader, optimizer: torch.optim.Optimizer, task: int) -> None:
    for x, y in bags(task):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def masked_loss(model: Reader, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x)[:, :4], y)


Way = Literal["state", "file", "attach", "inside"]
GROWN = si.Surgery(resized=["words", "head"])


def operated(way: Way, small: Reader, synapses: si.Consolidator, start: Reader, folder: Path) -> Any:
    """The larger network, its optimizer, and the synapses that are left of those of the small one."""
    model = larger(small, start)
    if way == "inside":
        inside = si.optim.SGD(
            model.named_parameters(), lr=RATE, momentum=0.5, c=C, xi=XI, synapses=synapses, surgery=GROWN
        )
        return model, inside, inside.synapses
    optimizer = sgd(model)
    if way == "attach":
        synapses.attach(optimizer, model.named_parameters(), surgery=GROWN)
        return model, optimizer, synapses
    new = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    if way == "state":
        synapses.detach()
        new.load_state_dict(GROWN.state(synapses.state_dict(), model.named_parameters()))
        return model, optimizer, new
    synapses.save(folder / "old.safetensors")
    GROWN.file(folder / "old.safetensors", folder / "new.safetensors", model.named_parameters())
    new.load(folder / "new.safetensors")
    return model, optimizer, new


@pytest.mark.parametrize("way", ["state", "file", "attach", "inside"])
def test_a_network_that_grows_equals_one_that_was_large_from_the_start_within_1e_12(way: Way, tmp_path: Path) -> None:
    """Its rows for words and classes to come get no gradient in the first task; the oracle shares no code."""
    start = reader()
    whole, small = copy.deepcopy(start), smaller(start)
    naive = NaiveSynapses(whole, C, XI)
    optimizer = sgd(small)
    synapses = si.SynapticIntelligence(small.named_parameters(), optimizer, c=C, xi=XI)

    learn(small, optimizer, 0)
    synapses.consolidate()
    reference = sgd(whole)
    for x, y in bags(0):
        naive.step(reference, partial(masked_loss, whole, x, y))
    naive.consolidate()

    model, optimizer, synapses = operated(way, small, synapses, start, tmp_path)
    assert_close(synapses.omega.items(), naive.omega, 1e-12)
    assert_close(synapses.anchor.items(), naive.anchor, 1e-12)
    assert not synapses.omega["head.weight"][4:].any()
    assert synapses.omega["head.weight"][:4].any()

    reference = sgd(whole)
    for task in (1, 2):
        learn(model, optimizer, task)
        for x, y in bags(task):
            naive.step(reference, loss_of(whole, x, y))
        held = [(naive.omega[n] * (p.detach() - naive.anchor[n]) ** 2).sum() for n, p in naive.named.items()]
        assert float(synapses.penalty()) == pytest.approx(C * float(torch.stack(held).sum()), rel=1e-12)
        assert_close(model.named_parameters(), dict(whole.named_parameters()), 1e-12)
        assert_close(synapses.path.items(), naive.path, 1e-12)
        synapses.consolidate()
        naive.consolidate()
        assert_close(synapses.omega.items(), naive.omega, 1e-12)
    assert synapses.omega["head.weight"][4:].any()
    assert synapses.tasks == 3


def test_the_pull_on_the_first_step_is_that_of_the_large_network() -> None:
    """A gradient of zero leaves the surrogate's alone: 2 c omega (theta - anchor), and none on what is new."""
    old = parameters_of({"w": (3, 2)})
    new = grown(old, {"w": (4, 3)})
    optimizer = torch.optim.SGD(new.values(), lr=1.0)
    synapses = si.SynapticIntelligence(new.items(), optimizer, c=C, xi=XI)
    file = file_of(old)
    state = {**synapses.state_dict(), "omega": dict(file.omega), "anchor": dict(file.anchor), "path": {}}
    synapses.load_state_dict(si.Surgery(resized=["w"]).state({**state, "tasks": 1, "untouched": False}, new.items()))
    with synapses.paused(), torch.no_grad():
        new["w"] += 0.5
    before = new["w"].detach().clone()
    new["w"].grad = torch.zeros_like(before)
    optimizer.step()
    expected = np.zeros((4, 3))
    expected[:3, :2] = 2 * C * file.omega["w"].numpy() * 0.5
    assert_close([("w", before - new["w"].detach())], {"w": torch.from_numpy(expected)}, 1e-12)


# Adapters.


class Adapted(nn.Module):
    """A layer with a product of two small matrices beside it."""

    def __init__(self, base_layer: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(rank, base_layer.in_features, dtype=torch.float64))
        self.b = nn.Parameter(torch.zeros(base_layer.out_features, rank, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        beside: Tensor = x @ self.a.T @ self.b.T
        own: Tensor = self.base_layer(x)
        return own + beside

    def merged(self) -> nn.Linear:
        with torch.no_grad():
            self.base_layer.weight += self.b @ self.a
        return self.base_layer.requires_grad_(True)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q: nn.Module = nn.Linear(4, 6, dtype=torch.float64)
        self.out = nn.Linear(6, 3, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(torch.tanh(self.q(x)))
        return logits


def learn_rows(model: nn.Module, optimizer: torch.optim.Optimizer, task: int, steps: int = 10) -> None:
    draw = torch.Generator().manual_seed(task)
    for _ in range(steps):
        x = torch.randn(8, 4, generator=draw, dtype=torch.float64)
        optimizer.zero_grad()
        F.cross_entropy(model(x), (x[:, task] > 0).long()).backward()
        optimizer.step()


def test_an_adapter_is_added_trained_and_merged() -> None:
    """The frozen base stays in the optimizer, so that its synapses wait for it."""
    model = Network()
    optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    learn_rows(model, optimizer, 0)
    synapses.consolidate()
    full = copy.deepcopy(dict(synapses.omega))
    base = model.q

    assert isinstance(base, nn.Linear)
    adapted = model.q = Adapted(base)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    added = si.Surgery(renamed={"q": "q.base_layer"}, added=["q.a", "q.b"])
    synapses.attach(optimizer, model.named_parameters(), surgery=added)
    names = ["out.bias", "out.weight", "q.a", "q.b", "q.base_layer.bias", "q.base_layer.weight"]
    assert sorted(synapses.omega) == names
    assert torch.equal(synapses.omega["q.base_layer.weight"], full["q.weight"])
    assert torch.equal(synapses.anchor["q.a"], adapted.a.detach())
    frozen = copy.deepcopy(adapted.base_layer.weight)
    learn_rows(model, optimizer, 1)
    synapses.consolidate()
    assert torch.equal(adapted.base_layer.weight, frozen)
    assert torch.equal(synapses.omega["q.base_layer.weight"], full["q.weight"])
    assert synapses.omega["q.b"].any()

    trained = copy.deepcopy(dict(synapses.omega))
    model.q = adapted.merged()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    merged = si.Surgery(removed=["q.a", "q.b"], renamed={"q.base_layer": "q"}, moved=["q.weight"])
    synapses.attach(optimizer, model.named_parameters(), surgery=merged)
    assert sorted(synapses.omega) == sorted(full)
    assert torch.equal(synapses.omega["q.weight"], full["q.weight"])
    assert torch.equal(synapses.omega["out.weight"], trained["out.weight"])
    assert torch.equal(synapses.anchor["q.weight"], frozen + adapted.b @ adapted.a)
    assert float(synapses.penalty()) == 0.0
    merged_weight = copy.deepcopy(model.q.weight)
    learn_rows(model, optimizer, 2)
    moved = (model.q.weight - merged_weight).detach().numpy()
    held = {n: ((p.detach() - synapses.anchor[n]) ** 2 * synapses.omega[n]).sum() for n, p in model.named_parameters()}
    assert held["q.weight"].item() == pytest.approx(float((full["q.weight"].numpy() * moved**2).sum()), rel=1e-12)
    assert float(synapses.penalty()) == pytest.approx(C * float(torch.stack([*held.values()]).sum()), rel=1e-12)


def test_a_layer_is_replaced_by_another_kind_of_layer() -> None:
    model = Network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    learn_rows(model, optimizer, 0)
    synapses.consolidate()
    kept = synapses.omega["out.weight"].clone()
    deep = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 6)).double()
    model.q = deep
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    synapses.attach(optimizer, model.named_parameters(), surgery=si.Surgery(replaced=["q"]))
    assert torch.equal(synapses.omega["out.weight"], kept)
    assert {n for n, omega in synapses.omega.items() if not omega.any()} == {
        f"q.{n}" for n, _ in deep.named_parameters()
    }
    learn_rows(model, optimizer, 1)
    synapses.consolidate()
    assert synapses.omega["q.0.weight"].any()


def test_a_layer_that_starts_anew_in_the_same_shape() -> None:
    model = Network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    learn_rows(model, optimizer, 0)
    synapses.consolidate()
    kept = synapses.omega["out.weight"].clone()
    model.q = nn.Linear(4, 6, dtype=torch.float64)
    synapses.attach(sgd(model), model.named_parameters(), surgery=si.Surgery(replaced=["q"]))
    assert not synapses.omega["q.weight"].any()
    assert torch.equal(synapses.anchor["q.weight"], model.q.weight.detach())
    assert torch.equal(synapses.omega["out.weight"], kept)


# Names.


@pytest.mark.parametrize(
    ("renamed", "expected"),
    [
        ({"a": "c"}, ["c.w", "c.x.w", "ab.w", "g"]),  # "ab" is not below "a"
        ({"": "model"}, ["model.a.w", "model.a.x.w", "model.ab.w", "model.g"]),
        ({"a": ""}, ["w", "x.w", "ab.w", "g"]),
        ({"": "model", "a.x": "model.a.x.base"}, ["model.a.w", "model.a.x.base.w", "model.ab.w", "model.g"]),
        ({"a": "ab", "ab": "a"}, ["ab.w", "ab.x.w", "a.w", "g"]),  # once, from the old name
        ({"a.w": "a.parametrizations.w.original"}, ["a.parametrizations.w.original", "a.x.w", "ab.w", "g"]),
        ({"g": "a.g"}, ["a.w", "a.x.w", "ab.w", "a.g"]),
    ],
)
def test_renaming_takes_the_longest_prefix_once(renamed: dict[str, str], expected: list[str]) -> None:
    old = parameters_of({"a.w": (2,), "a.x.w": (2,), "ab.w": (3,), "g": ()})
    file = file_of(old)
    found = si.Surgery(renamed=renamed).applied(file, dict(zip(expected, old.values(), strict=True)))
    assert list(found.omega) == expected
    assert all(a is b for a, b in zip(found.omega.values(), file.omega.values(), strict=True))
    assert all(a is b for a, b in zip(found.anchor.values(), file.anchor.values(), strict=True))


OLD: Shapes = {"head.weight": (4, 3), "head.bias": (4,), "body.weight": (3, 3), "gain": ()}
GROWN_HEAD: Shapes = {**OLD, "head.weight": (6, 3), "head.bias": (6,)}
WITH_NEW: Shapes = {**OLD, "new.weight": (2,)}
WITHOUT: Shapes = {name: shape for name, shape in OLD.items() if name != "gain"}


@pytest.mark.parametrize(
    ("declared", "shapes", "said"),
    [
        # What changed and is not named, all of it.
        ({}, GROWN_HEAD, r"'head.weight' \[4, 3\] -> \[6, 3\], 'head.bias' \[4\] -> \[6\] changed shape .*resized"),
        ({}, WITH_NEW, r"\['new.weight'\] appeared .*added"),
        ({}, WITHOUT, r"\['gain'\] disappeared .*removed"),
        (
            {},
            {"head.weight": (5, 3), "head.bias": (4,), "body": (3, 3), "gain": ()},
            r"\['body'\] appeared .*; \['body.weight'\] disappeared .*; 'head.weight' \[4, 3\] -> \[5, 3\] changed",
        ),
        ({"resized": ["head.weight"]}, GROWN_HEAD, r": 'head.bias' \[4\] -> \[6\] changed shape"),
        ({"resized": ["hea"]}, GROWN_HEAD, "resized 'hea' is the name of nothing.*'head.weight'"),
        # What is named and did not change.
        ({"resized": ["head", "body"]}, GROWN_HEAD, "resized 'body': has the shape that it had"),
        ({"resized": ["new"]}, WITH_NEW, r"resized 'new': \['new.weight'\] were not there before"),
        ({"resized": ["gain"]}, WITHOUT, r"resized 'gain': \['gain'\] are not there any more"),
        ({"resized": ["gain"]}, {**OLD, "gain": (1,)}, r"\['gain'\] have another number of dimensions"),
        ({"added": ["new", "body"]}, WITH_NEW, r"added 'body': \['body.weight'\] were there before"),
        ({"added": ["new", "newer"]}, WITH_NEW, "added 'newer' is the name of nothing"),
        ({"added": ["gain"]}, WITHOUT, r"added 'gain': \['gain'\] were there before"),
        ({"removed": ["gain", "gains"]}, WITHOUT, "removed 'gains' is the name of nothing that the synapses know"),
        ({"removed": ["gain"]}, OLD, r"removed: \['gain'\] are still there \([^)]*\)$"),
        ({"removed": ["gain"], "added": ["gain"]}, OLD, r"removed: \['gain'\] are still there"),
        ({"replaced": ["new"]}, WITH_NEW, "replaced 'new': was not there before"),
        ({"replaced": ["gain"]}, WITHOUT, "replaced 'gain': is not there any more"),
        ({"replaced": ["x"]}, OLD, "replaced 'x' is the name of nothing"),
        ({"moved": ["new"]}, WITH_NEW, r"moved 'new': \['new.weight'\] were not there before"),
        ({"moved": ["gain"]}, WITHOUT, r"moved 'gain': \['gain'\] are not there any more"),
        ({"moved": ["head"]}, GROWN_HEAD, r"moved 'head': \['head.weight', 'head.bias'\] changed shape"),
        ({"moved": ["body"]}, OLD, "moved 'body': the values are those of before"),
        ({"renamed": {"boddy": "b"}}, OLD, r"renamed \['boddy'\] are the names of nothing"),
        ({"renamed": {"gain": "g"}, "removed": ["gain"]}, WITHOUT, r"renamed \['gain'\] are the names of nothing"),
        ({"renamed": {"": "m", "gain": "m.gain", "head": "m.h", "body": "m.b"}}, OLD, r"renamed \[''\] are the names"),
        ({"renamed": {"gain": "body.weight"}}, OLD, "renamed gives 'body.weight' to both 'body.weight' and 'gain'"),
        ({"renamed": {"gain": ""}}, OLD, "renamed leaves nothing of the name 'gain'"),
        # What is named twice.
        ({"resized": ["head"], "moved": ["head.bias"]}, GROWN_HEAD, "'head.bias' is in resized and in moved"),
        ({"replaced": ["head"], "resized": ["head"]}, GROWN_HEAD, "'head.weight' is in resized and in replaced"),
        ({"added": [""], "replaced": ["new"]}, WITH_NEW, "'new.weight' is in added and in replaced"),
    ],
)
def test_what_is_not_so_is_refused(declared: dict[str, Any], shapes: Shapes, said: str) -> None:
    old = parameters_of(OLD)
    kept = {name: p for name, p in old.items() if shapes.get(name) == OLD[name]}
    new = {name: kept.get(name, p) for name, p in grown(old, {n: shapes[n] for n in shapes}, copied=False).items()}
    with pytest.raises(si.SynapseError, match=said):
        si.Surgery(**declared).applied(file_of(old), new)


def test_a_prefix_may_hold_what_was_not_resized() -> None:
    """A layer with more inputs has more weights and as many biases."""
    old = parameters_of(OLD)
    new = grown(old, {**OLD, "head.weight": (4, 8)})
    file = file_of(old)
    found = si.Surgery(resized=["head"]).applied(file, new)
    assert found.omega["head.bias"] is file.omega["head.bias"]
    assert torch.equal(found.omega["head.weight"][:, :3], file.omega["head.weight"])
    everything = si.Surgery(resized=[""]).applied(file, new)
    assert same(vars_of(everything), vars_of(found))


@pytest.mark.parametrize(
    ("declared", "error", "said"),
    [
        ({"resized": "head"}, TypeError, "resized must be a list of names"),
        ({"removed": 3}, TypeError, "removed must be a list of names"),
        ({"added": [nn.Linear(1, 1)]}, TypeError, "added must hold names"),
        ({"renamed": [("a", "b")]}, TypeError, "renamed must be old names with their new ones"),
        ({"renamed": {"a": 1}}, TypeError, "renamed must hold names"),
        ({"moved": ["head."]}, ValueError, "moved has 'head.'"),
        ({"replaced": ["a..b"]}, ValueError, "replaced has 'a..b'"),
        ({"renamed": {"": "model."}}, ValueError, "renamed has 'model.'"),
        ({"renamed": {"a": "a"}}, ValueError, r"renamed gives \['a'\] the names that they had"),
    ],
)
def test_what_names_cannot_be(declared: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        si.Surgery(**declared)


def test_it_keeps_what_it_was_given_as_it_was() -> None:
    names, renamed = ["head"], {"a": "b"}
    surgery = si.Surgery(resized=names, added=names, renamed=renamed)
    names.append("more")
    renamed["c"] = "d"
    assert surgery == si.Surgery(resized=("head",), added=["head"], renamed={"a": "b"})
    assert copy.deepcopy(surgery) == surgery


# Values.


def test_an_overlap_without_the_old_values_is_refused() -> None:
    old = parameters_of(OLD)
    new = {**old, **grown(old, {"head.weight": (6, 3), "head.bias": (6,)})}
    with torch.no_grad():
        new["head.bias"][3] += 1e-9
    surgery = si.Surgery(resized=["head"])
    with pytest.raises(si.SynapseError, match=r"resized: \['head.bias'\] do not hold the old values"):
        surgery.applied(file_of(old), new)
    with torch.no_grad():
        new["head.bias"][3], new["head.bias"][4:] = old["head.bias"][3], 100.0
    assert torch.equal(surgery.applied(file_of(old), new).anchor["head.bias"][4:], torch.full((2,), 100.0).double())


def test_old_values_are_those_of_the_old_parameter_where_it_still_has_them() -> None:
    """Weights that are not at their anchor, as after a load; and a parameter that was changed in place."""
    old = parameters_of({"w": (2, 2)})
    file = file_of(old, anchor={"w": old["w"].detach() + 1})
    new = grown(old, {"w": (3, 2)})
    surgery = si.Surgery(resized=["w"])
    found = surgery.applied(file, new, old)
    assert torch.equal(found.anchor["w"], torch.cat([file.anchor["w"], new["w"][2:].detach()]))
    with pytest.raises(si.SynapseError, match="do not hold the old values"):
        surgery.applied(file, new)
    for told_nothing in (new, {"w": new["w"].detach()}, {}):  # itself; another that was resized in place; none
        with pytest.warns(si.SynapseWarning, match=r"resized: \['w'\] are not at their anchor .* is not known"):
            unseen = surgery.applied(file, new, told_nothing)
        assert torch.equal(unseen.anchor["w"], found.anchor["w"])
        with pytest.raises(si.SynapseError, match="do not hold the old values"):
            surgery.applied(file, new, told_nothing, edited=True)  # they were at the anchor before
    renamed = si.Surgery(renamed={"w": "v"}, resized=["v"]).applied(file, {"v": new["w"]}, {**old, "v": new["w"] + 1})
    assert torch.equal(renamed.anchor["v"], found.anchor["w"])
    assert torch.equal(surgery.applied(file_of(old), new, new).anchor["w"], new["w"].detach())


def test_a_parameter_that_is_merged_in_place_has_moved() -> None:
    old = parameters_of({"w": (2, 2)})
    file = file_of(old)
    file = file_of(old, anchor={"w": file.anchor["w"].clone()})
    with torch.no_grad():
        old["w"] += 1
    found = si.Surgery(moved=["w"]).applied(file, old, old)
    assert torch.equal(found.anchor["w"], old["w"].detach())
    assert found.omega["w"] is file.omega["w"]


def test_a_model_that_became_coarser_holds_its_old_values() -> None:
    old = parameters_of({"w": (2, 2)}, dtype=torch.float32)
    file = file_of(old)
    new = {"w": nn.Parameter(torch.cat([old["w"].detach(), torch.ones(1, 2)]).bfloat16())}
    found = si.Surgery(resized=["w"]).applied(file, new)
    assert torch.equal(found.anchor["w"][:2], file.anchor["w"])
    assert found.anchor["w"].dtype is torch.float32


@pytest.mark.parametrize("told", [True, False])
def test_kept_parameters_of_other_values_are_warned_of(told: bool) -> None:
    old = parameters_of(OLD)
    new = {**parameters_of(OLD, seed=1), "head.weight": old["head.weight"]}
    file = file_of(old)
    with pytest.warns(si.SynapseWarning, match=r"\['head.bias', 'body.weight', 'gain'\] have other values than before"):
        found = si.Surgery().applied(file, new, old if told else None)
    assert found.anchor["gain"] is file.anchor["gain"]


@pytest.mark.parametrize("kind", ["added", "resized", "replaced", "moved"])
def test_weights_that_are_not_finite_become_no_anchor(kind: str) -> None:
    old = parameters_of({"w": (2,), "v": (2,)})
    shapes: Shapes = {"w": (2,), "v": (2,), "added": (2,)}
    names = {"added": "added", "resized": "v", "replaced": "v", "moved": "v"}
    if kind != "added":
        del shapes["added"]
    if kind == "resized":
        shapes["v"] = (3,)
    new = grown(old, shapes)
    with torch.no_grad():
        new[names[kind]][-1] = torch.nan
    declared: dict[str, Any] = {kind: [names[kind]]}
    with pytest.raises(si.SynapseError, match=rf"parameter \['{names[kind]}'\] is not finite"):
        si.Surgery(**declared).applied(file_of(old), new)


def test_surgery_on_the_path_of_a_task_is_refused() -> None:
    old = parameters_of(OLD)
    path = {name: torch.zeros_like(p) for name, p in old.items()}
    with pytest.raises(si.SynapseError, match=r"3 optimizer steps .* consolidate\(\) first"):
        si.Surgery().applied(file_of(old, steps=3, path=path), old)


def test_in_the_middle_of_a_task_without_a_path_nothing_is_lost() -> None:
    """Weights are on their way, so that the anchor tells nothing of what they were."""
    old = parameters_of(OLD)
    file = file_of(old, steps=3, anchor={name: p.detach() - 1 for name, p in old.items()})
    new = {**old, **grown(old, {"head.weight": (6, 3), "head.bias": (6,)})}
    surgery = si.Surgery(resized=["head"])
    found = surgery.applied(file, new, old)
    assert (found.steps, found.path) == (3, {})
    assert torch.equal(found.anchor["head.bias"], torch.cat([file.anchor["head.bias"], new["head.bias"][4:].detach()]))
    assert found.anchor["gain"] is file.anchor["gain"]
    with torch.no_grad():
        new["head.bias"][0] += 1
    with pytest.raises(si.SynapseError, match=r"resized: \['head.bias'\] do not hold the old values"):
        surgery.applied(file, new, old)
    with pytest.warns(si.SynapseWarning, match=r"resized: \['head.weight', 'head.bias'\] are not at their anchor"):
        surgery.applied(file, new)  # as in a state or a file, where nobody knows


def test_a_state_that_does_not_agree_with_itself_is_refused() -> None:
    old = parameters_of(OLD)
    file = file_of(old)
    for omega in ({}, {**file.omega, "gain": torch.ones(1)}):
        with pytest.raises(si.SynapseError, match="omega of other names or shapes than anchor"):
            si.Surgery().applied(file_of(old, omega=omega), old)


# In a life.


def test_before_the_first_step_the_anchor_follows_whatever_the_weights_become() -> None:
    model = Network()
    synapses = si.SynapticIntelligence(model.named_parameters(), sgd(model), c=C, xi=XI)
    model.q, model.out = nn.Linear(4, 8, dtype=torch.float64), nn.Linear(8, 3, dtype=torch.float64)
    optimizer = sgd(model)
    surgery = si.Surgery(resized=["q", "out"])
    state = surgery.state(synapses.state_dict(), model.named_parameters())
    assert same(state["anchor"], {name: p.detach() for name, p in model.named_parameters()})
    synapses.attach(optimizer, model.named_parameters(), surgery=surgery)
    with torch.no_grad():
        model.q.weight.fill_(0.25)
    assert torch.equal(synapses.anchor["q.weight"], torch.full((8, 4), 0.25).double())
    assert torch.equal(synapses.anchor["out.weight"], model.out.weight.detach())
    learn_rows(model, optimizer, 0)
    synapses.consolidate()
    assert synapses.omega["q.weight"].any()


def test_a_second_surgery_after_a_first() -> None:
    """The head grows for each task, and each row keeps the importance that it has earned."""
    model = Network()
    optimizer = sgd(model)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI, omega_dtype=torch.bfloat16)
    for classes in (4, 5):
        learn_rows(model, optimizer, 0)
        synapses.consolidate()
        earned, old = synapses.omega["out.weight"], model.out
        model.out = nn.Linear(6, classes, dtype=torch.float64)
        with torch.no_grad():
            model.out.weight[:-1], model.out.bias[:-1] = old.weight, old.bias
        optimizer = sgd(model)
        synapses.attach(optimizer, model.named_parameters(), surgery=si.Surgery(resized=["out"]))
        assert torch.equal(synapses.omega["out.weight"][:-1], earned)
        assert not synapses.omega["out.weight"][-1].any()
        assert synapses.omega["out.weight"].dtype is torch.bfloat16
    learn_rows(model, optimizer, 1)
    synapses.consolidate()


def test_what_attach_refuses_leaves_the_synapses_where_they_were() -> None:
    model = Network()
    optimizer = sgd(model)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    learn_rows(model, optimizer, 0)
    synapses.consolidate()
    before = copy.deepcopy(synapses.state_dict())
    other = copy.deepcopy(model)
    other.out = nn.Linear(6, 4, dtype=torch.float64)
    with pytest.raises(si.SynapseError, match="do not hold the old values"):
        synapses.attach(sgd(other), other.named_parameters(), surgery=si.Surgery(resized=["out"]))
    assert same(synapses.state_dict(), before)
    learn_rows(model, optimizer, 1)
    synapses.consolidate()


def test_frozen_parameters_without_synapses_are_left_out_of_a_state() -> None:
    """As the synapses leave out those that no optimizer holds; those that they know are kept."""
    old = parameters_of(OLD)
    state = si.SynapticIntelligence(old.items(), torch.optim.SGD(old.values()), c=C, xi=XI).state_dict()
    known, stranger = (nn.Parameter(torch.ones(s, dtype=torch.float64), requires_grad=False) for s in ((3, 3), (2,)))
    gone = nn.Parameter(torch.ones((), dtype=torch.float64), requires_grad=False)
    new = {**old, "body.weight": known, "stranger": stranger, "gain": gone}
    found = si.Surgery(removed=["gain"]).state(state, [(f"module.{name}", p) for name, p in new.items()])
    assert list(found["omega"]) == [name for name in OLD if name != "gain"]


def test_a_state_keeps_its_trigger() -> None:
    model = Network()
    synapses = si.SynapticIntelligence(model.named_parameters(), sgd(model), c=C, xi=XI)
    state = {**synapses.state_dict(), "trigger": {"count": torch.tensor(3)}}
    assert si.Surgery().state(state, model.named_parameters())["trigger"] is state["trigger"]


def test_a_file_that_is_refused_is_not_written(tmp_path: Path) -> None:
    model = Network()
    synapses = si.SynapticIntelligence(model.named_parameters(), sgd(model), c=C, xi=XI)
    synapses.save(tmp_path / "old.safetensors")
    with pytest.raises(si.SynapseError, match="the name of nothing"):
        si.Surgery(added=["x"]).file(
            tmp_path / "old.safetensors", tmp_path / "new.safetensors", model.named_parameters()
        )
    with pytest.raises(FileNotFoundError):
        si.Surgery().file(tmp_path / "none.safetensors", tmp_path / "new.safetensors", model.named_parameters())
    assert [file.name for file in tmp_path.iterdir()] == ["old.safetensors"]


def test_what_it_returns_is_a_state_that_says_the_same_of_all_else() -> None:
    old = parameters_of(OLD)
    file = file_of(old, tasks=4)
    found = si.Surgery().applied(file, old)
    assert (found.estimator, found.settings, found.c, found.tasks, found.steps, found.path, found.untouched) == (
        *("path_integral", {"xi": XI}, C, 4, 0, {}, False),
    )
    optimizer = torch.optim.SGD(old.values())
    state = si.SynapticIntelligence(old.items(), optimizer, c=C, xi=XI).state_dict()
    changed = si.Surgery().state(state, old.items())
    assert all(list(changed[kind]) == list(OLD) for kind in ("omega", "anchor", "path"))
    assert from_state_dict(changed).untouched


def test_an_optimizer_that_goes_on_keeps_the_moments_of_what_was_kept() -> None:
    """A layer is resized in place, without moments of the old shape, and another one comes in a group of its own."""
    model = Network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    learn_rows(model, optimizer, 0)
    synapses.consolidate()
    earned, moment = synapses.omega["out.bias"], optimizer.state[model.get_parameter("q.weight")]["exp_avg"]
    for p in model.out.parameters():
        p.data, p.grad = torch.cat([p.data, torch.ones_like(p.data[:2])]), None
        del optimizer.state[p]
    model.gain = nn.Parameter(torch.ones((), dtype=torch.float64))
    optimizer.add_param_group({"params": [model.gain]})
    surgery = si.Surgery(resized=["out"], added=["gain"])
    synapses.attach(optimizer, model.named_parameters(), surgery=surgery)
    assert torch.equal(synapses.omega["out.bias"], torch.cat([earned, torch.zeros(2).double()]))
    assert optimizer.state[model.get_parameter("q.weight")]["exp_avg"] is moment
    learn_rows(model, optimizer, 1)
    synapses.consolidate()
    assert synapses.omega["out.bias"][3:].any()
    assert len(synapses.omega) == 5
    for p in model.out.parameters():
        assert optimizer.state[p]["exp_avg"].shape == p.shape


# Weights that are not at their anchor.


def elsewhere(way: str, folder: Path) -> tuple[Network, si.Consolidator]:
    """A network that has learnt one task, and whose weights are not at the anchor."""
    model = Network()
    optimizer = sgd(model)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    learn_rows(model, optimizer, 0)
    synapses.consolidate()
    if way == "trained under paused()":
        with synapses.paused():
            learn_rows(model, optimizer, 1)
        return model, synapses
    synapses.save(folder / "a.safetensors")
    model = Network()
    synapses = si.SynapticIntelligence(model.named_parameters(), sgd(model), c=C, xi=XI)
    synapses.load(folder / "a.safetensors")
    return model, synapses


each_way = pytest.mark.parametrize("way", ["loaded into start weights", "trained under paused()"])


@each_way
def test_what_surgery_left_alone_is_not_warned_of(way: str, tmp_path: Path) -> None:
    """Warnings are errors here. The anchor stays where it was, and the pull towards it."""
    model, synapses = elsewhere(way, tmp_path)
    anchor, before = copy.deepcopy(dict(synapses.anchor)), float(synapses.penalty())
    assert before > 0
    old = model.out
    model.out = nn.Linear(6, 5, dtype=torch.float64)
    with torch.no_grad():
        model.out.weight[:3], model.out.bias[:3] = old.weight, old.bias
    synapses.attach(sgd(model), model.named_parameters(), surgery=si.Surgery(resized=["out"]))
    assert torch.equal(synapses.anchor["q.weight"], anchor["q.weight"])
    assert torch.equal(synapses.anchor["out.weight"][:3], anchor["out.weight"])
    assert float(synapses.penalty()) == pytest.approx(before, rel=1e-12)
    with torch.no_grad():
        model.out.bias[0] += 1e-6
    synapses.attach(sgd(model), model.named_parameters(), surgery=si.Surgery(moved=["out.bias"]))
    assert torch.equal(synapses.anchor["out.bias"], model.out.bias.detach())


def grow_in_place(layer: nn.Linear, *, keep: bool = True) -> None:
    for p in layer.parameters():
        p.data = torch.cat([p.data if keep else p.data + 1, torch.ones_like(p.data[:2])])
        p.grad = None


@each_way
def test_a_resize_in_place_whose_old_values_nobody_knows_is_warned_of(way: str, tmp_path: Path) -> None:
    model, synapses = elsewhere(way, tmp_path)
    omega, anchor = copy.deepcopy((dict(synapses.omega), dict(synapses.anchor)))
    grow_in_place(model.out)
    with pytest.warns(si.SynapseWarning, match=r"resized: \['out.weight', 'out.bias'\] are not at their anchor"):
        synapses.attach(sgd(model), model.named_parameters(), surgery=si.Surgery(resized=["out"]))
    assert torch.equal(synapses.omega["out.bias"], torch.cat([omega["out.bias"], torch.zeros(2).double()]))
    assert torch.equal(synapses.anchor["out.bias"], torch.cat([anchor["out.bias"], torch.ones(2).double()]))


def consolidated() -> tuple[Network, si.Consolidator]:
    model = Network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    learn_rows(model, optimizer, 0)
    synapses.consolidate()
    return model, synapses


def test_an_edit_in_place_since_the_anchor_is_seen() -> None:
    """The version counters of the tensors tell, as between steps."""
    model, synapses = consolidated()
    with torch.no_grad():
        model.get_parameter("q.weight").add_(1)
    with pytest.warns(si.SynapseWarning, match=r"\['q.weight'\] have other values than before the surgery"):
        synapses.attach(sgd(model), model.named_parameters(), surgery=si.Surgery())
    model, synapses = consolidated()
    grow_in_place(model.out, keep=False)
    with torch.no_grad():
        model.get_parameter("q.weight").add_(1)
    surgery = si.Surgery(resized=["out"], moved=["q.weight"])
    with pytest.raises(si.SynapseError, match=r"\['out.weight', 'out.bias'\] do not hold the old values"):
        synapses.attach(sgd(model), model.named_parameters(), surgery=surgery)
    with torch.no_grad():
        for name, p in model.out.named_parameters():
            p[:3] = synapses.anchor[f"out.{name}"]
    synapses.attach(sgd(model), model.named_parameters(), surgery=surgery)
    assert torch.equal(synapses.anchor["q.weight"], model.get_parameter("q.weight").detach())


def test_a_resize_in_place_before_the_first_step() -> None:
    model = Network()
    synapses = si.SynapticIntelligence(model.named_parameters(), sgd(model), c=C, xi=XI)
    grow_in_place(model.out, keep=False)
    synapses.attach(sgd(model), model.named_parameters(), surgery=si.Surgery(resized=["out"]))
    assert torch.equal(synapses.anchor["out.bias"], model.out.bias.detach())


# An optimizer that goes on.

MOMENTS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "Adam": lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    "SGD with momentum": sgd,
    "Adagrad": lambda model: torch.optim.Adagrad(model.parameters(), lr=0.01),
}


@pytest.mark.parametrize("kind", list(MOMENTS))
def test_an_optimizer_with_moments_of_the_old_shape_is_refused(kind: str) -> None:
    model = Network()
    optimizer = MOMENTS[kind](model)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    learn_rows(model, optimizer, 0)
    synapses.consolidate()
    grow_in_place(model.out)
    before = copy.deepcopy((synapses.state_dict(), model.state_dict()))
    surgery = si.Surgery(resized=["out"])
    with pytest.raises(si.SynapseError, match=r"moments of \['out.weight', 'out.bias'\] in the shape of before"):
        synapses.attach(optimizer, model.named_parameters(), surgery=surgery)
    assert same(before, (synapses.state_dict(), model.state_dict()))
    for p in model.out.parameters():
        del optimizer.state[p]
    if kind == "Adagrad":  # it makes its state when it is made, and nowhere else
        for p in model.out.parameters():
            optimizer.state[p] = {"step": torch.tensor(0.0), "sum": torch.zeros_like(p)}
    synapses.attach(optimizer, model.named_parameters(), surgery=surgery)
    learn_rows(model, optimizer, 1)
    synapses.consolidate()
    assert synapses.tasks == 2


def test_an_optimizer_goes_on_with_moments_that_were_resized_too() -> None:
    """Without a pull it is torch's own Adam with the same surgery, bit for bit."""

    def run(with_synapses: bool) -> Network:
        torch.manual_seed(0)
        model = Network()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=0.0, xi=XI) if with_synapses else None
        learn_rows(model, optimizer, 0)
        if synapses is not None:
            synapses.consolidate()
        grow_in_place(model.out)
        for p in model.out.parameters():
            for name in ("exp_avg", "exp_avg_sq"):
                moment = optimizer.state[p][name]
                optimizer.state[p][name] = torch.cat([moment, torch.zeros_like(moment[:2])])
        if synapses is not None:
            synapses.attach(optimizer, model.named_parameters(), surgery=si.Surgery(resized=["out"]))
        learn_rows(model, optimizer, 1)
        return model

    assert same(dict(run(True).state_dict()), dict(run(False).state_dict()))


def test_factored_moments_have_shapes_of_their_own() -> None:
    model = Network()
    optimizer = torch.optim.Adafactor(model.parameters(), lr=0.01)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    learn_rows(model, optimizer, 0)
    synapses.consolidate()
    row = optimizer.state[model.get_parameter("q.weight")]["row_var"]
    assert row.shape == (6, 1)
    grow_in_place(model.out)
    with pytest.raises(si.SynapseError, match=r"moments of \['out.bias'\]"):
        synapses.attach(optimizer, model.named_parameters(), surgery=si.Surgery(resized=["out"]))
    for p in model.out.parameters():
        del optimizer.state[p]
    synapses.attach(optimizer, model.named_parameters(), surgery=si.Surgery(resized=["out"]))
    assert optimizer.state[model.get_parameter("q.weight")]["row_var"] is row
    learn_rows(model, optimizer, 1)
    synapses.consolidate()


def test_moments_of_a_layer_that_starts_anew_are_warned_of() -> None:
    model = Network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    synapses = si.SynapticIntelligence(model.named_parameters(), optimizer, c=C, xi=XI)
    learn_rows(model, optimizer, 0)
    synapses.consolidate()
    with torch.no_grad():
        for p in model.q.parameters():
            p.copy_(torch.randn(p.shape, dtype=p.dtype))
    surgery = si.Surgery(replaced=["q"])
    with pytest.warns(si.SynapseWarning, match=r"still has the moments of the old \['q.weight', 'q.bias'\]"):
        synapses.attach(optimizer, model.named_parameters(), surgery=surgery)
    for p in model.q.parameters():
        del optimizer.state[p]
    synapses.attach(optimizer, model.named_parameters(), surgery=surgery)
    assert not synapses.omega["q.weight"].any()
    learn_rows(model, optimizer, 1)


@pytest.mark.parametrize("via", ["", "detach", "another", "another that had let go"])
def test_what_surgery_let_go_is_trained_on_by_the_same_optimizer(via: str) -> None:
    """It is neither pulled nor refused: as with synapses that never had it."""

    def run(let_go: bool) -> tuple[Network, si.Consolidator]:
        torch.manual_seed(0)
        model = Network()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        named = [(name, p) for name, p in model.named_parameters() if name.startswith("q")]
        begun = model.named_parameters() if let_go else named
        synapses = si.SynapticIntelligence(begun, optimizer, c=C, xi=XI)
        learn_rows(model, optimizer, 0)
        synapses.consolidate()
        if let_go:
            surgery = si.Surgery(removed=["out"])
            other = sgd(model)
            if via == "detach":
                synapses.detach()
            elif via == "another":
                synapses.attach(other)
            elif via:
                synapses.attach(other, named, surgery=surgery)
                with pytest.raises(si.SynapseError, match="detached or moved"):
                    optimizer.step()
                surgery = si.Surgery()
            synapses.attach(optimizer, named, surgery=surgery)
            if via.startswith("another"):
                with pytest.raises(si.SynapseError, match="detached or moved"):
                    other.step()
        learn_rows(model, optimizer, 1)
        synapses.consolidate()
        return model, synapses

    (model, synapses), (other, expected) = run(True), run(False)
    assert same(dict(model.state_dict()), dict(other.state_dict()))
    assert same(dict(synapses.omega), dict(expected.omega))


def test_what_other_synapses_left_is_still_refused() -> None:
    """Two sets of synapses on one optimizer: surgery on one does not excuse the other."""
    model = Network()
    optimizer = sgd(model)
    named = dict(model.named_parameters())
    first, second = (
        si.SynapticIntelligence([(n, p) for n, p in named.items() if n.startswith(layer)], optimizer, c=C, xi=XI)
        for layer in ("q", "out")
    )
    learn_rows(model, optimizer, 0)
    first.consolidate()
    second.detach()
    first.attach(optimizer, [("q.weight", named["q.weight"])], surgery=si.Surgery(removed=["q.bias"]))
    with pytest.raises(si.SynapseError, match="detached or moved"):
        optimizer.step()
    second.attach(optimizer)
    learn_rows(model, optimizer, 1)


# An estimator that looks at the model.


@final
class Mine:
    """An estimator of the user's own, with a model."""

    name = "mine"
    needs_data = True
    integrates_path = False

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def settings(self) -> dict[str, float | str]:
        return {}

    def new_omega(self, end: si.TaskEnd) -> dict[str, Tensor]:
        return {name: omega + 1 for name, omega in end.omega.items()}


ESTIMATORS: dict[str, Callable[[nn.Module], si.Importance]] = {
    "fisher": lambda model: si.Fisher(model, F.cross_entropy, kind="empirical"),
    "mas": si.MAS,
    "short_path": lambda model: si.ShortPath(model, F.cross_entropy, lr=0.01, xi=XI),
    "mine": Mine,
}


def data_of(task: int) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(70 + task)
    x = torch.randn(12, 4, generator=draw, dtype=torch.float64)
    return [(x, (x[:, task] > 0).long())]


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_an_estimator_of_another_model_is_refused_before_the_task(name: str) -> None:
    model = Network()
    optimizer = sgd(model)
    synapses = si.Consolidator(model.named_parameters(), optimizer, ESTIMATORS[name](model), c=C)
    learn_rows(model, optimizer, 0)
    synapses.consolidate(data_of(0))
    other = copy.deepcopy(model)
    grow_in_place(other.out)
    surgery, before = si.Surgery(resized=["out"]), copy.deepcopy(synapses.state_dict())
    with pytest.raises(si.SynapseError, match=rf"'q.weight'.* not in the model that {name} was given: change that"):
        synapses.attach(sgd(other), other.named_parameters(), surgery=surgery)
    assert same(synapses.state_dict(), before)

    optimizer = sgd(other)  # the way that the message names
    new = si.Consolidator(other.named_parameters(), optimizer, ESTIMATORS[name](other), c=C)
    new.load_state_dict(surgery.state(before, other.named_parameters()))
    learn_rows(other, optimizer, 1)
    new.consolidate(data_of(1))
    assert new.tasks == 2

    old, model.out = model.out, nn.Linear(6, 5, dtype=torch.float64)  # or in place
    with torch.no_grad():
        model.out.weight[:3], model.out.bias[:3] = old.weight, old.bias
    optimizer = sgd(model)
    synapses.attach(optimizer, model.named_parameters(), surgery=surgery)
    learn_rows(model, optimizer, 1)
    synapses.consolidate(data_of(1))
    assert synapses.tasks == 2


def test_fisher_in_the_middle_of_a_task_adds_to_what_it_had() -> None:
    """Against the squared gradients of single samples, by plain autograd."""
    model = Network()
    optimizer = sgd(model)
    fisher = si.Fisher(model, F.cross_entropy, kind="empirical")
    synapses = si.Consolidator(model.named_parameters(), optimizer, fisher, c=C)
    learn_rows(model, optimizer, 0)
    synapses.consolidate(data_of(0))
    earned, anchor = copy.deepcopy((dict(synapses.omega), dict(synapses.anchor)))
    learn_rows(model, optimizer, 1, steps=3)
    old, model.out = model.out, nn.Linear(6, 5, dtype=torch.float64)
    with torch.no_grad():
        model.out.weight[:3], model.out.bias[:3] = old.weight, old.bias
    optimizer = sgd(model)
    synapses.attach(optimizer, model.named_parameters(), surgery=si.Surgery(resized=["out"]))
    assert torch.equal(synapses.anchor["q.weight"], anchor["q.weight"])
    assert torch.equal(synapses.anchor["out.weight"][:3], anchor["out.weight"])
    learn_rows(model, optimizer, 1, steps=3)
    ((x, y),) = data_of(1)
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for one_x, one_y in zip(x, y, strict=True):
        loss = F.cross_entropy(model(one_x[None]), one_y[None])
        for mean, g in zip(expected.values(), torch.autograd.grad(loss, list(model.parameters())), strict=True):
            mean += g.square() / len(x)
    for name, before in earned.items():
        expected[name][tuple(map(slice, before.shape))] += before
    synapses.consolidate(data_of(1))
    assert_close(synapses.omega.items(), expected, 1e-12)
