"""MNIST loads whole and unchanged, from three places; anything else is refused by name."""

from __future__ import annotations

import gzip
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import synaptic_intelligence.data
from synaptic_intelligence.data import DataError, load_mnist
from synaptic_intelligence.tasks import Task

BUNDLED = Path(synaptic_intelligence.data.__file__).parent / "files" / "mnist"
IMAGES = "train-images-idx3-ubyte.gz"
LABELS = "train-labels-idx1-ubyte.gz"
FILES = (IMAGES, LABELS, "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")


@pytest.fixture(scope="module")
def mnist() -> Task:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SYNAPTIC_DATA_DIR", raising=False)
        return load_mnist()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the four files, to be damaged."""
    for name in FILES:
        shutil.copy(BUNDLED / name, tmp_path)
    return tmp_path


def test_the_bundled_files_hold_all_of_mnist(mnist: Task) -> None:
    assert mnist.classes == tuple(range(10))
    assert mnist.train_inputs.shape == (60_000, 784)
    assert mnist.test_inputs.shape == (10_000, 784)
    assert mnist.train_inputs.dtype == mnist.test_inputs.dtype == torch.uint8
    # The known number of images of each digit.
    assert mnist.train_targets.bincount().tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    assert mnist.test_targets.bincount().tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
    assert mnist.train_targets[:5].tolist() == [5, 0, 4, 1, 9]
    assert mnist.test_targets[:5].tolist() == [7, 2, 1, 0, 4]
    # The known mean and standard deviation of the training pixels.
    pixels = mnist.train_inputs.float() / 255
    assert pixels.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert pixels.std().item() == pytest.approx(0.3081, abs=5e-5)


def test_the_licence_names_the_authors_beside_the_files() -> None:
    text = (BUNDLED / "LICENSE").read_text(encoding="utf-8")
    for words in ("Yann LeCun", "Corinna Cortes", "Burges", "CC BY-SA 3.0", "creativecommons.org/licenses/by-sa/3.0"):
        assert words in text


@pytest.mark.parametrize(("subfolder", "way"), [("mnist", "argument"), (".", "text"), ("mnist", "variable")])
def test_another_folder_is_read(
    mnist: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subfolder: str, way: str
) -> None:
    (tmp_path / subfolder).mkdir(exist_ok=True)
    for name in FILES:
        (tmp_path / subfolder / name).symlink_to(BUNDLED / name)
    monkeypatch.setenv("SYNAPTIC_DATA_DIR", str(tmp_path if way == "variable" else tmp_path / "nowhere"))
    ways: dict[str, Path | str | None] = {"argument": tmp_path, "text": str(tmp_path), "variable": None}
    data = load_mnist(ways[way])
    assert torch.equal(data.train_inputs, mnist.train_inputs)
    assert torch.equal(data.test_targets, mnist.test_targets)


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNAPTIC_DATA_DIR", "")
    assert len(load_mnist().train_targets) == 60_000


def test_another_compression_of_the_same_bytes_is_as_good(folder: Path) -> None:
    raw = gzip.decompress((folder / LABELS).read_bytes())
    (folder / LABELS).write_bytes(gzip.compress(raw, compresslevel=1))
    assert load_mnist(folder).train_targets[:5].tolist() == [5, 0, 4, 1, 9]


def with_other_bytes(change: Callable[[bytearray], object]) -> Callable[[Path], None]:
    """Return what unpacks a file, changes its bytes and packs it again."""

    def damage(path: Path) -> None:
        raw = bytearray(gzip.decompress(path.read_bytes()))
        change(raw)
        path.write_bytes(gzip.compress(raw, compresslevel=1))

    return damage


def replaced(raw: bytearray, start: int, new: bytes) -> None:
    raw[start : start + len(new)] = new


def into_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "there is no such file"),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:-100]), "cannot be read as gzip"),
    "empty": (lambda path: path.write_bytes(b""), "not an IDX file of bytes with 1 dimension"),
    "not gzip": (lambda path: path.write_bytes(b"<html>404</html>"), "cannot be read as gzip"),
    "a flipped bit in the gzip": (
        lambda path: path.write_bytes(path.read_bytes()[:9000] + b"\x55" + path.read_bytes()[9001:]),
        "cannot be read as gzip",
    ),
    "a compressed block of no known kind": (
        lambda path: path.write_bytes(path.read_bytes()[:10] + b"\xff" + path.read_bytes()[11:]),
        "cannot be read as gzip.*invalid block type",
    ),
    "a folder": (into_a_folder, r"it cannot be opened \(Is a directory\)"),
    "another magic number": (with_other_bytes(lambda raw: replaced(raw, 2, b"\x0d")), "not an IDX file"),
    "images for labels": (lambda path: shutil.copy(path.parent / FILES[2], path), "not an IDX file"),
    "only half of a header": (with_other_bytes(lambda raw: raw.__delitem__(slice(6, None))), "not an IDX file"),
    "one label too few": (with_other_bytes(lambda raw: raw.pop()), r"says \(60000,\), but 59999 bytes"),
    "one label too many": (with_other_bytes(lambda raw: raw.append(0)), r"says \(60000,\), but 60001 bytes"),
    "another size": (
        with_other_bytes(lambda raw: replaced(raw, 4, struct.pack(">I", 2**32 - 1))),
        r"says \(4294967295,\)",
    ),
    "one label changed": (
        with_other_bytes(lambda raw: replaced(raw, 100, bytes([raw[100] ^ 1]))),
        r"the MD5 of its unpacked bytes is [0-9a-f]{32}, MNIST's is a25bea736e30d166cdddb491f175f624",
    ),
    "the test labels": (lambda path: shutil.copy(path.parent / FILES[3], path), "the MD5 of its unpacked bytes"),
}


@pytest.mark.parametrize(("damage", "problem"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_wrong_file_is_refused_by_name(folder: Path, damage: Callable[[Path], object], problem: str) -> None:
    damage(folder / LABELS)
    with pytest.raises(DataError, match=problem) as caught:
        load_mnist(folder)
    message = str(caught.value)
    assert str(folder / LABELS) in message
    # The ways out: the argument, its flag, the variable, the bundled copy.
    for way in ("data_dir", "--data-dir", "SYNAPTIC_DATA_DIR", "the copy in the package", *FILES):
        assert way in message


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file") as caught:
        load_mnist(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere" / IMAGES) in str(caught.value)


def test_a_chosen_folder_without_mnist_is_not_replaced_by_the_bundled_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNAPTIC_DATA_DIR", str(tmp_path))
    with pytest.raises(DataError, match="SYNAPTIC_DATA_DIR"):
        load_mnist()


def test_a_folder_of_cifar_alone_leaves_mnist_to_the_package(tmp_path: Path) -> None:
    (tmp_path / "cifar10").mkdir()
    assert len(load_mnist(tmp_path).train_targets) == 60_000
    (tmp_path / "train-images-idx3-ubyte.gz").touch()  # but what claims to be MNIST is read
    with pytest.raises(DataError, match="train-images"):
        load_mnist(tmp_path)
