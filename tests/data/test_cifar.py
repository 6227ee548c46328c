"""CIFAR is what its files hold, in one order, decoded once; anything else is refused by name.

The files are stand-ins of a few random images in the layout of the hub, whose counts and checksums take the place of
CIFAR's own. The last test reads the real ones, where they are.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import numpy as np
import numpy.typing as npt
import PIL.Image
import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file, save_file

from synaptic_intelligence.data import DataError, cifar, load_cifar10, load_cifar100
from synaptic_intelligence.tasks import Task

Pixels: TypeAlias = npt.NDArray[np.uint8]
Example: TypeAlias = tuple[int, Pixels]
Parts: TypeAlias = dict[str, list[Example]]
PARTS = ("train", "test")


def examples(count: int, classes: int, seed: int) -> list[Example]:
    """Images of random pixels, each height x width x RGB, with labels in turn."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return [(i % classes, image) for i, image in enumerate(pixels)]


def in_order(part: list[Example]) -> list[Example]:
    """The examples by the BLAKE2b of label and pixels, 16 bytes long."""
    return sorted(part, key=lambda e: hashlib.blake2b(bytes([e[0]]) + e[1].tobytes(), digest_size=16).digest())


def checksum(part: list[Example]) -> str:
    """SHA-256 of all pixels in that order, each image channel by channel, then of all labels."""
    ordered = in_order(part)
    total = hashlib.sha256()
    for _, image in ordered:
        total.update(image.transpose(2, 0, 1).tobytes())
    total.update(bytes(label for label, _ in ordered))
    return total.hexdigest()


def encoded(image: Pixels, kind: str = "WEBP") -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    return file.getvalue()


def row(example: Example, label: str, kind: str = "WEBP") -> dict[str, Any]:
    return {"img": {"bytes": encoded(example[1], kind), "path": None}, label: example[0]}


def write(folder: Path, part: str, rows: list[dict[str, Any]], shards: int = 1) -> list[Path]:
    """Write rows into parquet files as the hub names them."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{part}-{number:05d}-of-{shards:05d}.parquet" for number in range(shards)]
    for number, path in enumerate(paths):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[number::shards]), path)
    return paths


def write_all(folder: Path, parts: Parts, label: str, kind: str = "WEBP", shards: int = 1) -> Path:
    """Write both parts into ``folder``, and return the folder of the data that it lies in."""
    for name in PARTS:
        write(folder, name, [row(example, label, kind) for example in parts[name]], shards)
    return folder.parent


def assert_holds(task: Task, parts: Parts) -> None:
    """The task has exactly these examples, in their order."""
    for name in PARTS:
        inputs, targets = getattr(task, f"{name}_inputs"), getattr(task, f"{name}_targets")
        expected = in_order(parts[name])
        assert (inputs.dtype, targets.dtype) == (torch.uint8, torch.int64)
        assert targets.tolist() == [label for label, _ in expected]
        assert np.array_equal(inputs.numpy(), np.stack([image.transpose(2, 0, 1) for _, image in expected]))


@pytest.fixture(autouse=True)
def _nothing_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder of the user's is read or written."""
    monkeypatch.delenv("SYNAPTIC_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))


@pytest.fixture
def ten(monkeypatch: pytest.MonkeyPatch) -> Parts:
    """What CIFAR-10 is in these tests."""
    parts = {"train": examples(23, 10, seed=1), "test": examples(11, 10, seed=2)}
    known = {name: checksum(part) for name, part in parts.items()}
    source = replace(cifar._CIFAR10, images={"train": 23, "test": 11}, digests=known)
    monkeypatch.setattr(cifar, "_CIFAR10", source)
    return parts


@pytest.fixture
def data_dir(tmp_path: Path, ten: Parts) -> Path:
    return write_all(tmp_path / "data" / "cifar10", ten, "label")


@pytest.fixture
def no_decoder(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function after which no image can be decoded any more."""

    def broken(*_: object, **__: object) -> None:
        raise AssertionError("an image was decoded")

    return lambda: monkeypatch.setattr(PIL.Image, "open", broken)


@pytest.mark.parametrize("way", ["argument", "text", "variable", "home"])
def test_pixels_and_labels_survive_exactly(
    data_dir: Path, ten: Parts, way: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ways: dict[str, Path | str | None] = {"argument": data_dir, "text": str(data_dir), "variable": None}
    monkeypatch.setenv("SYNAPTIC_DATA_DIR", str(data_dir if way == "variable" else tmp_path / "nowhere"))
    monkeypatch.setenv("HOME", str(data_dir.parent))
    task = load_cifar10(ways.get(way, "~/data"))
    assert_holds(task, ten)
    assert (task.name, task.classes) == ("CIFAR-10", tuple(range(10)))
    assert (task.train_inputs.shape, task.test_inputs.shape) == ((23, 3, 32, 32), (11, 3, 32, 32))


def test_the_order_mixes_the_classes(data_dir: Path, ten: Parts) -> None:
    labels = load_cifar10(data_dir).train_targets.tolist()
    assert labels != sorted(labels)
    assert labels != [label for label, _ in ten["train"]]


@pytest.mark.parametrize(
    ("kind", "shards", "arranged"),
    [
        ("PNG", 1, list),
        ("WEBP", 3, list),
        ("WEBP", 1, lambda part: part[::-1]),
        ("PNG", 4, lambda part: sorted(part, key=lambda example: example[0])),
    ],
)
def test_neither_shards_nor_rows_nor_the_format_change_the_order(
    data_dir: Path,
    ten: Parts,
    tmp_path: Path,
    kind: str,
    shards: int,
    arranged: Callable[[Iterable[Example]], list[Example]],
) -> None:
    other = {name: arranged(part) for name, part in ten.items()}
    first, second = (
        load_cifar10(data_dir),
        load_cifar10(write_all(tmp_path / "other" / "cifar10", other, "label", kind, shards)),
    )
    assert torch.equal(first.train_inputs, second.train_inputs)
    assert torch.equal(first.train_targets, second.train_targets)
    assert torch.equal(first.test_inputs, second.test_inputs)
    assert torch.equal(first.test_targets, second.test_targets)


def test_other_columns_are_ignored(ten: Parts, tmp_path: Path) -> None:
    for name in PARTS:
        rows = [{"id": i, "coarse_label": None, **row(e, "label"), "why": "x"} for i, e in enumerate(ten[name])]
        write(tmp_path / "more" / "cifar10", name, rows)
    assert_holds(load_cifar10(tmp_path / "more"), ten)


def test_a_full_cifar100_gives_the_same_as_its_first_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = {"train": examples(120, 100, seed=3), "test": examples(100, 100, seed=4)}
    half = {name: [example for example in part if example[0] < 50] for name, part in full.items()}
    counts = {name: len(part) for name, part in half.items()}
    assert counts == {"train": 70, "test": 50}
    known = {name: checksum(part) for name, part in half.items()}
    monkeypatch.setattr(cifar, "_CIFAR100", replace(cifar._CIFAR100, images=counts, digests=known))
    for name, parts in (("full", full), ("half", half)):
        task = load_cifar100(write_all(tmp_path / name / "cifar100", parts, "fine_label"))
        assert_holds(task, half)
        assert (task.name, task.classes) == ("CIFAR-100", tuple(range(50)))


def test_the_second_time_nothing_is_decoded(data_dir: Path, ten: Parts, no_decoder: Callable[[], None]) -> None:
    load_cifar10(data_dir)
    no_decoder()
    assert_holds(load_cifar10(data_dir), ten)


def test_where_the_images_are_kept_no_package_is_needed(
    data_dir: Path, ten: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_cifar10(data_dir)
    monkeypatch.setattr(cifar, "find_spec", lambda name: None)
    assert_holds(load_cifar10(data_dir), ten)


def _cached(tmp_path: Path, part: str) -> Path:
    (path,) = (tmp_path / "cache" / "synaptic-intelligence").glob(f"cifar10-{part}-*.safetensors")
    return path


def _one_pixel(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)


def _another_label(path: Path) -> None:
    tensors = load_file(path)
    tensors["labels"][0] += 1
    save_file(tensors, path)


def _without_the_last(path: Path) -> None:
    save_file({name: tensor[:-1].clone() for name, tensor in load_file(path).items()}, path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "something else": lambda path: path.write_bytes(b"something else, and long enough to have a header"),
    "one pixel": _one_pixel,
    "another label": _another_label,
    "other tensors": lambda path: save_file({"pixels": torch.zeros(3)}, path),
    "one image too few": _without_the_last,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.parametrize("part", PARTS)
def test_a_damaged_cache_is_noticed_and_made_again(
    data_dir: Path,
    ten: Parts,
    tmp_path: Path,
    part: str,
    damage: Callable[[Path], object],
    no_decoder: Callable[[], None],
) -> None:
    load_cifar10(data_dir)
    path = _cached(tmp_path, part)
    whole = path.read_bytes()
    damage(path)
    assert path.read_bytes() != whole
    with pytest.warns(UserWarning, match="is damaged .*; the images are decoded again") as caught:
        assert_holds(load_cifar10(data_dir), ten)
    assert [str(path) in str(warning.message) for warning in caught] == [True]
    assert caught[0].filename == __file__  # it points at who has asked for the data
    assert path.read_bytes() == whole
    no_decoder()
    assert_holds(load_cifar10(data_dir), ten)


def test_a_changed_file_is_not_taken_for_the_one_that_was_kept(data_dir: Path, ten: Parts) -> None:
    load_cifar10(data_dir)
    changed = [(label, image.copy()) for label, image in ten["test"]]
    changed[4][1][3, 4, 1] ^= 1
    write(data_dir / "cifar10", "test", [row(example, "label") for example in changed])
    with pytest.raises(DataError, match="its test images are not the right ones: their checksum is "):
        load_cifar10(data_dir)
    # As good in another format.
    write(data_dir / "cifar10", "test", [row(example, "label", "PNG") for example in ten["test"]])
    assert_holds(load_cifar10(data_dir), ten)


def _rewrite(folder: Path, part: str, change: Callable[[list[dict[str, Any]]], object]) -> None:
    (path,) = folder.glob(f"{part}-*.parquet")
    rows = pyarrow.parquet.read_table(path).to_pylist()
    change(rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def _with(rows: list[dict[str, Any]], number: int, image: bytes | None) -> None:
    rows[number]["img"]["bytes"] = image


def _renamed(old: str, new: str) -> Callable[[list[dict[str, Any]]], None]:
    def rename(rows: list[dict[str, Any]]) -> None:
        for one in rows:
            one[new] = one.pop(old)

    return rename


@dataclass(frozen=True)
class Harm:
    """What is done to the folder of CIFAR-10, and what is then said."""

    do: Callable[[Path], object]
    said: str


TRAIN = "train-00000-of-00001.parquet"
SMALL, GREY = np.zeros((32, 31, 3), np.uint8), np.zeros((32, 32), np.uint8)

HARMS: dict[str, Harm] = {
    "no folder": Harm(lambda folder: folder.rename(folder.with_name("cifar")), r"there is no .*cifar10/train-\*\.parq"),
    "no training images": Harm(lambda folder: (folder / TRAIN).unlink(), r"there is no .*/cifar10/train-\*\.parquet"),
    "no test images": Harm(
        lambda folder: next(folder.glob("test-*")).unlink(), r"there is no .*/cifar10/test-\*\.parquet"
    ),
    "cut short": Harm(
        lambda folder: (folder / TRAIN).write_bytes((folder / TRAIN).read_bytes()[:-50]),
        rf"cifar10/{TRAIN} cannot be read: ",
    ),
    "empty": Harm(lambda folder: (folder / TRAIN).write_bytes(b""), rf"cifar10/{TRAIN} cannot be read: "),
    "not parquet": Harm(
        lambda folder: (folder / TRAIN).write_bytes(b"<html>404</html>" * 99), rf"cifar10/{TRAIN} cannot be read: "
    ),
    "an image of another size": Harm(
        lambda folder: _rewrite(folder, "train", lambda rows: _with(rows, 5, encoded(SMALL))),
        rf"cifar10/{TRAIN} cannot be read: ValueError: image 5 is 31 x 32 pixels, not 32 x 32",
    ),
    "an image that is none": Harm(
        lambda folder: _rewrite(folder, "train", lambda rows: _with(rows, 5, b"no image")),
        rf"cifar10/{TRAIN} cannot be read: UnidentifiedImageError: ",
    ),
    "an image that is missing": Harm(
        lambda folder: _rewrite(folder, "train", lambda rows: _with(rows, 5, None)),
        rf"cifar10/{TRAIN} cannot be read: ",
    ),
    "no column of images": Harm(
        lambda folder: _rewrite(folder, "train", _renamed("img", "image")), rf"cifar10/{TRAIN} cannot be read: "
    ),
    "no column of labels": Harm(
        lambda folder: _rewrite(folder, "train", _renamed("label", "fine_label")), rf"cifar10/{TRAIN} cannot be read: "
    ),
    "another image": Harm(
        lambda folder: _rewrite(folder, "train", lambda rows: _with(rows, 5, encoded(GREY, "PNG"))),
        r"its train images are not the right ones: their checksum is [0-9a-f]{64}, not [0-9a-f]{64}",
    ),
    "another label": Harm(
        lambda folder: _rewrite(folder, "test", lambda rows: rows[0].update(label=1)),
        "its test images are not the right ones: their checksum is ",
    ),
    "a label outside the classes": Harm(
        lambda folder: _rewrite(folder, "train", lambda rows: rows[0].update(label=10)),
        "its train images are not the right ones: 22 images of classes 0 to 9 instead of 23",
    ),
    "a negative label": Harm(
        lambda folder: _rewrite(folder, "train", lambda rows: rows[0].update(label=-1)),
        "its train images are not the right ones: 22 images of classes 0 to 9 instead of 23",
    ),
    "no label": Harm(
        lambda folder: _rewrite(folder, "train", lambda rows: rows[0].update(label=None)),
        rf"cifar10/{TRAIN} cannot be read: ",
    ),
    "an image too few": Harm(
        lambda folder: _rewrite(folder, "test", lambda rows: rows.pop()),
        "its test images are not the right ones: 10 images of classes 0 to 9 instead of 11",
    ),
    "an image twice": Harm(
        lambda folder: _rewrite(folder, "test", lambda rows: rows.append(rows[0])),
        "its test images are not the right ones: 12 images of classes 0 to 9 instead of 11",
    ),
    "no images of these classes": Harm(
        lambda folder: _rewrite(folder, "train", lambda rows: [one.update(label=77) for one in rows]),
        "its train images are not the right ones: 0 images of classes 0 to 9 instead of 23",
    ),
}


def _assert_says_what_to_do(message: str) -> None:
    assert message.startswith("CIFAR-10 cannot be loaded: ")
    for way in ("data_dir", "--data-dir", "SYNAPTIC_DATA_DIR", "cifar10/train-*.parquet", "uoft-cs/cifar10"):
        assert way in message
    assert "\n" not in message


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS.keys())
def test_a_wrong_file_is_refused_with_the_ways_out(data_dir: Path, harm: Harm, tmp_path: Path) -> None:
    harm.do(data_dir / "cifar10")
    with pytest.raises(DataError, match=harm.said) as caught:
        load_cifar10(data_dir)
    _assert_says_what_to_do(str(caught.value))
    # What is wrong is not kept.
    wrong = "test" if "test" in harm.said else "train"
    assert [path.name for path in (tmp_path / "cache").rglob(f"*{wrong}*")] == []


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ({"datasets"}, "datasets is not installed"),
        ({"PIL"}, "PIL is not installed"),
        ({"datasets", "PIL"}, "datasets and PIL are not installed"),
    ],
)
@pytest.mark.parametrize("hub", [True, False])
def test_a_missing_package_is_named(
    data_dir: Path, missing: set[str], said: str, hub: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar, "find_spec", lambda name: None if name in missing else find_spec(name))
    with pytest.raises(DataError, match=rf"{said}: pip install 'synaptic-intelligence\[cifar\]'") as caught:
        load_cifar10(None if hub else data_dir)
    _assert_says_what_to_do(str(caught.value))


def test_where_nothing_can_be_kept_it_says_so_and_loads(
    data_dir: Path, ten: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="cannot be kept for the next time: No space left on device") as caught:
        assert_holds(load_cifar10(data_dir), ten)
    assert [warning.filename for warning in caught] == [__file__] * 2  # once for each part
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_a_cache_folder_that_cannot_be_made_is_no_hindrance(
    data_dir: Path, ten: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert_holds(load_cifar10(data_dir), ten)
    said = [str(warning.message) for warning in caught if warning.category is UserWarning]
    assert sum("cannot be kept for the next time" in message for message in said) == 2


class Hub:
    """Stands for the Hugging Face hub, with one data set in memory."""

    def __init__(self, repository: str, parts: Parts, label: str, classes: int) -> None:
        self.repository, self.asked = repository, list[str]()
        kinds = datasets.Features({"img": datasets.Image(), label: datasets.ClassLabel(num_classes=classes)})
        columns = {
            name: {"img": [row(e, label, "PNG")["img"] for e in part], label: [e[0] for e in part]}
            for name, part in parts.items()
        }
        self.tables = {name: datasets.Dataset.from_dict(columns[name], kinds) for name in PARTS}

    def load_dataset(self, repository: str, *, split: str) -> Any:
        assert repository == self.repository
        self.asked.append(split)
        return self.tables[split]


@pytest.mark.parametrize("variable", [None, ""])
def test_without_a_folder_it_comes_from_the_hub_once(
    ten: Parts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str | None
) -> None:
    if variable is not None:
        monkeypatch.setenv("SYNAPTIC_DATA_DIR", variable)
    hub = Hub("uoft-cs/cifar10", ten, "label", 10)
    monkeypatch.setattr(datasets, "load_dataset", hub.load_dataset)
    assert_holds(load_cifar10(), ten)
    assert hub.asked == ["train", "test"]
    assert_holds(load_cifar10(), ten)
    assert hub.asked == ["train", "test"]


def test_cifar100_comes_from_its_own_place_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    full = {"train": examples(100, 100, seed=5), "test": examples(100, 100, seed=6)}
    half = {name: part[:50] for name, part in full.items()}
    known = {name: checksum(part) for name, part in half.items()}
    counts = {"train": 50, "test": 50}
    monkeypatch.setattr(cifar, "_CIFAR100", replace(cifar._CIFAR100, images=counts, digests=known))
    monkeypatch.setattr(datasets, "load_dataset", Hub("uoft-cs/cifar100", full, "fine_label", 100).load_dataset)
    assert_holds(load_cifar100(), half)


def test_a_hub_that_cannot_be_reached_is_named(ten: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach 'uoft-cs/cifar10' on the Hub\nand more lines")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        DataError, match="uoft-cs/cifar10 cannot be read: ConnectionError: Couldn't reach 'uoft-cs/cifar10'"
    ) as caught:
        load_cifar10()
    _assert_says_what_to_do(str(caught.value))


REAL = Path(os.environ.get("SYNAPTIC_TEST_DATA_DIR") or "nowhere").expanduser()


@pytest.mark.parametrize(("load", "name", "classes"), [(load_cifar10, "cifar10", 10), (load_cifar100, "cifar100", 50)])
def test_the_real_files_hold_all_of_cifar(
    load: Callable[[Path], Task], name: str, classes: int, no_decoder: Callable[[], None]
) -> None:
    if not (REAL / name).is_dir():
        pytest.skip(f"SYNAPTIC_TEST_DATA_DIR names no folder that holds {name}/")
    first = load(REAL)
    each = 50_000 // 10 if name == "cifar10" else 50_000 // 100
    assert first.classes == tuple(range(classes))
    assert first.train_inputs.shape == (classes * each, 3, 32, 32)
    assert first.test_inputs.shape == (classes * each // 5, 3, 32, 32)
    assert first.train_targets.bincount().tolist() == [each] * classes
    assert first.test_targets.bincount().tolist() == [each // 5] * classes
    # Decoded at the first use alone.
    no_decoder()
    again = load(REAL)
    assert torch.equal(first.train_inputs, again.train_inputs)
    assert torch.equal(first.test_targets, again.test_targets)
