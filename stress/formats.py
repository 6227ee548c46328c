"""The file formats that the project reads, each with valid inputs, ways to damage them, and what may come of it."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import struct
import warnings
import zipfile
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Protocol, final
from unittest.mock import patch

import damage
import hostile
import torch
from safetensors.torch import save
from torch import Tensor, nn

import synaptic_intelligence as si
from synaptic_intelligence.data import DataError, cifar, mnist
from synaptic_intelligence.document import ResultError
from synaptic_intelligence.experiments.checkpoint import Checkpoint, CheckpointError, read_checkpoint, write_checkpoint
from synaptic_intelligence.experiments.plan import Record
from synaptic_intelligence.findings import Findings, read_findings, write_findings
from synaptic_intelligence.result import Result, Run, read_result, write_result

ENVIRONMENT: dict[str, Any] = {"torch": "2.13.0", "threads": 1, "git": {"commit": "0" * 40, "changed": False}}


class BrokenPromiseError(Exception):
    """A reader did what it must not do."""


class Format(Protocol):
    """A format: its inputs by number, and what its reader makes of one."""

    file: str
    """What an input must be called."""

    corpus: list[bytes]
    """Valid inputs."""

    @abstractmethod
    def hostile(self, marker: Path) -> list[bytes]:
        """Return the inputs that are tried first, those that make ``marker`` if they are unpickled among them."""

    @abstractmethod
    def damaged(self, rng: Random) -> bytes:
        """Return a damaged input."""

    @abstractmethod
    def read(self, path: Path) -> bool:
        """Return whether the input was read, and not refused as documented; raise anything else."""


@final
class Importance:
    """An importance file, read into synapses by ``load``."""

    file = "importance.safetensors"

    def __init__(self, folder: Path) -> None:
        self.synapses, self.optimizer, self.weights = _synapses()
        self.corpus = []
        for number, steps in enumerate((0, 2)):
            for _ in range(steps):
                _step(self.optimizer, self.weights)
            self.synapses.save(folder / f"{number}.safetensors")
            self.corpus.append((folder / f"{number}.safetensors").read_bytes())
        self.good = _copied(self.synapses.state_dict())

    def hostile(self, marker: Path) -> list[bytes]:
        traps = hostile.traps(marker, ("omega", "anchor"))
        whole = self.corpus[0]
        (length,) = struct.unpack("<Q", whole[:8])
        # A header that is a pickle; data that are one; lengths beyond all bounds.
        inside = [struct.pack("<Q", len(trap)) + trap for trap in traps]
        inside += [whole[: 8 + length] + trap for trap in traps]
        lengths = [struct.pack("<Q", n) + whole[8:] for n in (0, 1, 99_999_999, 2**40, 2**63, 2**64 - 1)]
        nested = [damage.text_of({"a": f"{damage._RAW}list {depth}"}).encode() for depth in (100, 1000, 10**6)]
        return [*traps, *inside, *lengths, *(struct.pack("<Q", len(text)) + text for text in nested)]

    def damaged(self, rng: Random) -> bytes:
        return damage.safetensors_of(rng, self.corpus, "synaptic_intelligence", ["path_integral", "w", "b", "omega/w"])

    def read(self, path: Path) -> bool:
        return _loads(self.synapses, self.good, lambda: self.synapses.load(path), (ValueError, si.SynapseError))


@final
class StateDict:
    """What ``state_dict`` gave, that of a trigger in it, on its way through ``torch.save`` and ``torch.load``."""

    file = "state.pt"

    def __init__(self, folder: Path) -> None:
        self.synapses, self.optimizer, self.weights = _synapses()
        _step(self.optimizer, self.weights)
        self.good = _copied(self.synapses.state_dict())
        self.corpus = [_saved(self.good)]

    def hostile(self, marker: Path) -> list[bytes]:
        return hostile.traps(marker, tuple(self.good))

    def damaged(self, rng: Random) -> bytes:
        state = self.good
        for _ in range(rng.choice((1, 1, 2, 4))):
            state = _changed_state(rng, state)
        return _saved(state)

    def read(self, path: Path) -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                state = torch.load(path, weights_only=True)
            except Exception:  # torch's own reader, with errors of its own
                return False
        return _loads(self.synapses, self.good, lambda: self._load(state), (si.SynapseError,))

    def _load(self, state: Any) -> None:
        try:
            self.synapses.load_state_dict(state)
        except ValueError as error:
            # As wherever strengths are given that do not fit the parameters.
            raise si.SynapseError(str(error)) if "leading axis" in str(error) else error from error


@final
class ResultFile:
    """A result file: both versions, every kind of run."""

    file = "result.json"

    def __init__(self, folder: Path) -> None:
        first = Run(0, "si", 0.1, [[0.9, 0.5], [0.8, 0.7]], [0.5, 0.5], [1.0, 1.1], [0.9, 0.8], [0.9, 0.8])
        second = dataclasses.replace(first, seed=1, path_correlation={"0.weight": [[1.0], [0.25, 1.0]]})
        at_once = Run(0, "joint", None, [[0.9, 0.9]], [0.5, 0.5], [1.0], [0.9])
        result = Result(
            experiment="split-mnist",
            title="Split MNIST",
            settings={"epochs": 10, "c": [0.0, 0.1], "limit": None},
            deviations=["short"],
            task_names=["0/1", "2/3"],
            runs=[first, second, at_once],
            planned_runs=4,
            environment=ENVIRONMENT,
            command="synaptic run split-mnist",
            started="2025-01-31T12:00:00+00:00",
            wall_seconds=3.25,
            chance=0.5,
        )
        write_result(result, folder / "result.json")
        document = json.loads((folder / "result.json").read_bytes())
        older = {"method", "final_train_accuracy", "path_correlation"}
        run = {name: value for name, value in document["runs"][0].items() if name not in older}
        self.corpus = [json.dumps(document).encode(), json.dumps({**document, "schema": 1, "runs": [run]}).encode()]
        self.again = folder / "again.json"

    def hostile(self, marker: Path) -> list[bytes]:
        return _hostile_json(marker, self.corpus[0], "settings")

    def damaged(self, rng: Random) -> bytes:
        return damage.json_of(rng, self.corpus, ["si", "joint", "synaptic-intelligence result"])

    def read(self, path: Path) -> bool:
        try:
            found = read_result(path)
        except ResultError:
            return False
        write_result(found, self.again)
        if read_result(self.again) != found:
            raise BrokenPromiseError("it reads as another when written again")
        return True


@final
class FindingsFile:
    """A findings file."""

    file = "findings.json"

    def __init__(self, folder: Path) -> None:
        numbers: dict[str, Any] = {"error": 1e-3, "by_seed": [[1, 2.5], [None, True]], "names": {"a": "b", "c": {}}}
        findings = Findings(
            experiment="quadratic",
            title="A quadratic loss",
            settings={"seeds": 2},
            deviations=[],
            numbers=numbers,
            environment=ENVIRONMENT,
            command="synaptic run quadratic",
            started="2025-01-31T12:00:00+00:00",
            wall_seconds=1.0,
        )
        write_findings(findings, folder / "findings.json")
        self.corpus = [(folder / "findings.json").read_bytes()]
        self.again = folder / "again.json"

    def hostile(self, marker: Path) -> list[bytes]:
        return _hostile_json(marker, self.corpus[0], "numbers")

    def damaged(self, rng: Random) -> bytes:
        return damage.json_of(rng, self.corpus, ["synaptic-intelligence findings"])

    def read(self, path: Path) -> bool:
        try:
            found = read_findings(path)
        except ResultError:
            return False
        write_findings(found, self.again)
        if read_findings(self.again) != found:
            raise BrokenPromiseError("it reads as another when written again")
        return True


@final
class CheckpointFile:
    """The checkpoint of an experiment's job."""

    file = "seed-0-c-1.0.pt"

    def __init__(self, folder: Path) -> None:
        synapses, optimizer, weights = _synapses()
        _step(optimizer, weights)
        order = torch.Generator().manual_seed(1).get_state()
        record = Record([0.5, 0.5], [[0.9, 0.5]], [0.9], [], [1.5], {"w": [[1.0]]})
        state = weights.state_dict(), optimizer.state_dict(), synapses.state_dict()
        write_checkpoint(Checkpoint(1, 2, 0.25, *state, order, [order], record), folder / "checkpoint.pt")
        write_checkpoint(Checkpoint(1, 0, 0.0, state[0], {}, {}, order, [order], record), folder / "between.pt")
        self.corpus = [(folder / name).read_bytes() for name in ("checkpoint.pt", "between.pt")]
        self.content = torch.load(folder / "checkpoint.pt", weights_only=True)

    def hostile(self, marker: Path) -> list[bytes]:
        return hostile.traps(marker, tuple(self.content))

    def damaged(self, rng: Random) -> bytes:
        return damage.zip_of(rng, self.corpus, lambda rng: _saved(_changed_state(rng, self.content)))

    def read(self, path: Path) -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = read_checkpoint(path)
            except CheckpointError:
                return False
        if found is None:
            raise BrokenPromiseError("the file is there, and was not read")
        kinds = [
            *(isinstance(each, dict) for each in (found.weights, found.optimizer, found.synapses)),
            *(type(each) is int and each >= 0 for each in (found.task, found.epoch)),
            *(isinstance(each, Tensor) and each.dtype == torch.uint8 for each in (found.order, *found.noise)),
            type(found.seconds) is float,
            isinstance(found.record, Record) and all(type(each) is float for each in found.record.baseline),
        ]
        if not all(kinds):
            raise BrokenPromiseError("what was read is no checkpoint")
        return True


@final
class MnistFile:
    """An IDX file of MNIST: the real test labels, or a few images with a checksum of their own."""

    def __init__(self, folder: Path, *, images: bool) -> None:
        self.file = "t10k-images-idx3-ubyte.gz" if images else "t10k-labels-idx1-ubyte.gz"
        if images:
            pixels = Random(0).randbytes(5 * 28 * 28)
            whole = gzip.compress(bytes((0, 0, 8, 3)) + struct.pack(">3I", 5, 28, 28) + pixels, mtime=0)
        else:
            whole = (mnist._BUNDLED / self.file).read_bytes()
        self.corpus = [whole]
        self.unpacked = [gzip.decompress(whole)]
        self.sum = {self.file: hashlib.md5(self.unpacked[0], usedforsecurity=False).hexdigest()}
        (folder / self.file).write_bytes(whole)
        with patch.dict(mnist._MD5, self.sum):
            self.true = mnist._read_idx(folder / self.file)

    def hostile(self, marker: Path) -> list[bytes]:
        head = bytes((0, 0, 8, 3 if "images" in self.file else 1))
        sizes = [gzip.compress(head + struct.pack(">3I", *[2**32 - 1] * 3)), gzip.compress(head + bytes(12))]
        return [*hostile.traps(marker, ()), *sizes]

    def damaged(self, rng: Random) -> bytes:
        return damage.gzip_of(rng, self.corpus, self.unpacked)

    def read(self, path: Path) -> bool:
        try:
            with patch.dict(mnist._MD5, self.sum):
                found = mnist._read_idx(path)
        except DataError:
            return False
        if not torch.equal(found, self.true):
            raise BrokenPromiseError("other images were taken for MNIST's")
        return True


@final
class CifarCache:
    """The decoded images of CIFAR in the user's cache: a few, with a checksum of their own."""

    file = "cifar10-train-hub.safetensors"

    def __init__(self, folder: Path) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randint(256, (4, 3, 32, 32), generator=generator, dtype=torch.uint8)
        self.labels = torch.tensor([3, 1, 4, 1], dtype=torch.uint8)
        self.source = dataclasses.replace(
            cifar._CIFAR10, images={"train": 4}, digests={"train": cifar._digest(self.images, self.labels)}
        )
        self.corpus = [save({"images": self.images, "labels": self.labels})]

    def hostile(self, marker: Path) -> list[bytes]:
        shapes = [(12_288,), (4, 3072), (4, 32, 32, 3), (3, 4, 32, 32)]
        forms = [save({"images": self.images.view(shape), "labels": self.labels}) for shape in shapes]
        forms += [save({"images": self.images.view(torch.int8), "labels": self.labels.view(2, 2)})]
        forms += [save({"images": torch.tensor(0), "labels": self.labels})]
        return [*hostile.traps(marker, ()), *forms]

    def damaged(self, rng: Random) -> bytes:
        whole = self.corpus[0]
        (length,) = struct.unpack("<Q", whole[:8])
        if rng.random() < 0.5:
            return damage.bytes_of(rng, self.corpus)
        header = damage.text_of(damage._changed(rng, json.loads(whole[8 : 8 + length]), damage.DTYPES))
        text = header.encode("utf-8", "replace")
        return struct.pack("<Q", len(text)) + text + whole[8 + length :]

    def read(self, path: Path) -> bool:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = cifar._from_cache(self.source, "train", path)
        if found is None:
            if not any("is damaged" in str(warning.message) for warning in caught):
                raise BrokenPromiseError("the cache was passed over without a word")
            return False
        if not all(
            a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(found, (self.images, self.labels), strict=True)
        ):
            raise BrokenPromiseError("other images were taken for CIFAR's")
        return True


FORMATS: Mapping[str, Callable[[Path], Format]] = {
    "importance": Importance,
    "state-dict": StateDict,
    "result": ResultFile,
    "findings": FindingsFile,
    "checkpoint": CheckpointFile,
    "mnist-labels": lambda folder: MnistFile(folder, images=False),
    "mnist-images": lambda folder: MnistFile(folder, images=True),
    "cifar-cache": CifarCache,
}


def bombs(name: str) -> list[bytes]:
    """Return the inputs of a format that unpack to gigabytes; they are tried after the hostile ones."""
    if name.startswith("mnist"):
        return [hostile.gzip_bomb(4)]
    if name == "checkpoint":
        return [hostile.zip_bomb(30, 2**28, zipfile.ZIP_DEFLATED), hostile.zip_bomb(3000, 2**22, zipfile.ZIP_STORED)]
    return []


def _hostile_json(marker: Path, whole: bytes, member: str) -> list[bytes]:
    document = json.loads(whole)
    shapes = [f"{kind} {depth}" for kind in ("list", "object") for depth in (*range(300, 1000, 10), 10**4, 10**6)]
    shapes += ["digits 1000000", "exponent 999999999", "names 200000"]
    nested = [{**document, member: {"a": f"{damage._RAW}{shape}"}} for shape in shapes]
    surrogates: list[dict[str, Any]] = [{**document, "title": "\ud800"}, {**document, member: {"\ud800": 1}}]
    return [
        *hostile.traps(marker, ()),
        *(damage.text_of(each).encode() for each in nested),
        *(json.dumps(each).encode() for each in surrogates),
    ]


def _saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def _synapses() -> tuple[si.Consolidator, torch.optim.Optimizer, nn.Module]:
    """Return synapses that have learnt a task."""
    torch.manual_seed(0)
    weights = nn.ParameterDict({"w": torch.randn(2, 3), "b": torch.randn(3)})
    optimizer = torch.optim.SGD(weights.parameters(), lr=0.1)
    synapses = si.SynapticIntelligence(weights.named_parameters(), optimizer, c=0.5, xi=0.1)
    synapses.trigger = si.triggers.Plateau(window=2, mean_below=0.5, std_below=0.1)
    for loss in (0.9, 0.4, 0.4):
        synapses.trigger.fires(loss)
    _step(optimizer, weights)
    synapses.consolidate()
    return synapses, optimizer, weights


def _step(optimizer: torch.optim.Optimizer, weights: nn.Module) -> None:
    optimizer.zero_grad()
    torch.stack([(each - 1).square().sum() for each in weights.parameters()]).sum().backward()
    optimizer.step()


def _copied(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: _copied(value) for name, value in state.items()}
    return state.clone() if isinstance(state, Tensor) else state


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[name], b[name]) for name in a)
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and torch.equal(a.nan_to_num(7e7), b.nan_to_num(7e7))
    return type(a) is type(b) and bool(a == b)


def _loads(
    synapses: si.Consolidator, good: dict[str, Any], load: Callable[[], None], refused: tuple[type[Exception], ...]
) -> bool:
    """Return whether ``load`` took a state over, all of it, or refused it and changed nothing; ``good`` is left."""
    taken = True
    try:
        taken = _taken_over(synapses, good, load, refused)
    finally:
        if taken:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                synapses.load_state_dict(good)
    return taken


def _taken_over(
    synapses: si.Consolidator, good: dict[str, Any], load: Callable[[], None], refused: tuple[type[Exception], ...]
) -> bool:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            load()
        except refused:
            if not _same(synapses.state_dict(), good):
                raise BrokenPromiseError("what was refused has changed the synapses") from None
            return False
    strange = [str(each.message) for each in caught if not issubclass(each.category, si.SynapseWarning)]
    if strange:
        raise BrokenPromiseError(f"it was corrected in silence: {strange[0]}")
    state = synapses.state_dict()
    named = [(kind, tensor) for kind in ("omega", "anchor", "path") for tensor in state[kind].values()]
    if not all(
        bool(tensor.isfinite().all()) and (kind != "omega" or bool((tensor >= 0).all())) for kind, tensor in named
    ):
        raise BrokenPromiseError("numbers were taken over that cannot be")
    return True


def _changed_state(rng: Random, value: Any) -> Any:
    """Return a state with one place in it changed to another thing that torch's safe reader lets through."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(list(value))
        match rng.randrange(10):
            case 0:
                return {key: member for key, member in value.items() if key != name}
            case 1:
                return {**value, rng.choice(("", "extra", 0, None, ("a", 1), 1.5)): value[name]}
            case 2:
                return {**value, name: value[rng.choice(list(value))]}
            case _:
                return {**value, name: _changed_state(rng, value[name])}
    if isinstance(value, Tensor) and rng.random() < 0.7:
        return _changed_tensor(rng, value)
    return rng.choice(_things())


def _things() -> Sequence[Any]:
    nested: Any = []
    for _ in range(300):
        nested = [nested]
    return (
        *(None, True, False, 0, 1, -1, 2**40, 2**64, 10**400, 0.5, -0.5, 1e308, 1e-320, 1j),
        *(float("nan"), float("inf"), float("-inf"), "", "path_integral", "fisher", "\ud800", b"bytes", bytearray(3)),
        *([], {}, [0.5], [0.5, 0.5], (0.5,), {"xi": torch.ones(2)}, {"xi": float("nan")}, {0: 1}, nested),
        *(torch.float16, torch.Size([2]), torch.device("meta"), torch.tensor(0.5), torch.tensor([0.5, 0.5])),
        *(torch.tensor([], dtype=torch.int8), torch.tensor([True]), torch.ones(2, dtype=torch.complex64)),
    )


def _changed_tensor(rng: Random, tensor: Tensor) -> Tensor:
    # Not one that an earlier change has made vast, or empty of numbers.
    small = tensor.numel() < 100 and not (tensor.is_meta or tensor.is_complex())
    wide = (tensor.dequantize() if tensor.is_quantized else tensor.to_dense().float()) if small else torch.ones(3)
    ways: list[Callable[[], Tensor]] = [
        lambda: torch.full(wide.shape, float("nan"), dtype=torch.float64),
        lambda: torch.full(wide.shape, float("inf")),
        lambda: -wide.abs() - 1,
        lambda: torch.full(wide.shape, 1e300, dtype=torch.float64),
        lambda: torch.full(wide.shape, 1e-310, dtype=torch.float64),
        lambda: wide.half(),
        lambda: wide.bfloat16(),
        lambda: wide.to(torch.float8_e4m3fn),
        lambda: wide.to(torch.complex64) * 1j,
        lambda: wide.to(torch.int32),
        lambda: wide > 0,
        lambda: wide.to_sparse(),
        lambda: torch.ones(1, 1).to_sparse_csr(),
        lambda: torch.quantize_per_tensor(wide, 0.1, 0, torch.qint8),
        lambda: wide.to("meta"),
        lambda: wide.flatten(),
        lambda: wide[None],
        lambda: wide.t() if wide.ndim == 2 else wide,
        lambda: wide.flatten()[:0],
        lambda: wide.new_ones(()).expand(wide.shape),
        lambda: wide.new_ones(()).expand(2**40, *wide.shape),
        lambda: nn.Parameter(wide),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about kinds that will be or will go
        return rng.choice(ways)()
