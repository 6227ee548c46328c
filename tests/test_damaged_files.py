"""Damaged and hostile files that stress/fuzz.py has found to be read wrongly once, each by itself."""

from __future__ import annotations

import errno
import gzip
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from made_up import RESULT
from safetensors.torch import save

from synaptic_intelligence.atomic import replacing
from synaptic_intelligence.data import DataError, cifar, load_mnist, mnist
from synaptic_intelligence.document import ResultError
from synaptic_intelligence.experiments.checkpoint import Checkpoint, CheckpointError, read_checkpoint, write_checkpoint
from synaptic_intelligence.experiments.folder import clean_up
from synaptic_intelligence.experiments.plan import Plan, Record
from synaptic_intelligence.result import read_result, write_result


def result_with(tmp_path: Path, old: str, new: str) -> Path:
    write_result(replace(RESULT, settings={"a": "old"}), tmp_path / "result.json")
    text = (tmp_path / "result.json").read_text("utf-8")
    assert text.count(old) == 1
    (tmp_path / "result.json").write_text(text.replace(old, new), "utf-8")
    return tmp_path / "result.json"


@pytest.mark.parametrize("depth", [50, 300, 900, 5000, 100_000])
@pytest.mark.parametrize(("opens", "closes"), [("[", "]"), ('{"a":', "}")])
def test_a_document_too_deep_for_the_stack_is_refused(tmp_path: Path, depth: int, opens: str, closes: str) -> None:
    path = result_with(tmp_path, '"old"', opens * depth + "1" + closes * depth)
    with pytest.raises(ResultError, match=r"result\.json: .*(within each other|recursion)"):
        read_result(path)


def test_a_document_is_not_refused_for_a_little_depth(tmp_path: Path) -> None:
    path = result_with(tmp_path, '"old"', "[" * 40 + "1" + "]" * 40)
    assert json.dumps(read_result(path).settings["a"]).count("[") == 40


@pytest.mark.parametrize(("old", "new"), [('"Split MNIST"', '"\\ud800"'), ('"old"', '"\\udc00"'), ('"a"', '"\\ud800"')])
def test_half_a_character_is_refused_as_no_file_could_hold_it_again(tmp_path: Path, old: str, new: str) -> None:
    with pytest.raises(ResultError, match="half of a surrogate pair"):
        read_result(result_with(tmp_path, old, new))


def test_a_name_that_is_given_twice_among_many_is_found_at_once(tmp_path: Path) -> None:
    many = "{" + ",".join(f'"{number}":0' for number in range(100_000)) + ',"99999":0}'
    # By pairs this would take minutes.
    with pytest.raises(ResultError, match="the name '99999' appears twice"):
        read_result(result_with(tmp_path, '"old"', many))


def test_a_file_that_unpacks_to_more_than_mnist_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in mnist._MD5:
        (tmp_path / name).write_bytes(gzip.compress(bytes(20_000)))
    monkeypatch.setattr(mnist, "_LARGEST", 10_000)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: it unpacks to more than 10000 bytes"):
        load_mnist(tmp_path)


def test_the_largest_file_of_mnist_is_as_large_as_is_unpacked() -> None:
    sizes = [len(gzip.decompress((mnist._BUNDLED / name).read_bytes())) for name in mnist._MD5]
    assert max(sizes) == mnist._LARGEST


IMAGES = torch.arange(4 * 3072, dtype=torch.int32).remainder(251).to(torch.uint8).view(4, 3, 32, 32)
LABELS = torch.tensor([1, 2, 3, 4], dtype=torch.uint8)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (IMAGES.view(4, 3072), LABELS),
        (IMAGES.view(4, 32, 32, 3), LABELS),
        (IMAGES.view(torch.int8), LABELS),
        (IMAGES.view(torch.float8_e5m2), LABELS),
        (torch.tensor(0, dtype=torch.uint8), LABELS),
        (IMAGES, LABELS.view(4, 1)),
        (IMAGES, torch.tensor(4, dtype=torch.uint8)),
    ],
)
def test_images_of_the_right_bytes_in_another_form_are_not_taken_from_the_cache(
    tmp_path: Path, images: torch.Tensor, labels: torch.Tensor
) -> None:
    digests = {"train": cifar._digest(IMAGES, LABELS)}
    source = replace(cifar._CIFAR10, images={"train": 4}, digests=digests)
    path = tmp_path / "cache.safetensors"
    path.write_bytes(save({"images": IMAGES, "labels": LABELS}))
    assert cifar._from_cache(source, "train", path) is not None
    path.write_bytes(save({"images": images, "labels": labels}))
    with pytest.warns(UserWarning, match="is damaged"):
        assert cifar._from_cache(source, "train", path) is None


ORDER = torch.Generator().manual_seed(0).get_state()
MEASURED = Record(baseline=[0.5], accuracy=[[0.9]], train_accuracy=[0.9], task_seconds=[1.0])
CHECKPOINT = Checkpoint(1, 2, 0.5, {"w": torch.ones(2)}, {}, {}, ORDER, [ORDER], MEASURED)


def refused(path: Path, said: str = ".") -> None:
    with pytest.raises(CheckpointError, match=f"cannot be read: {said}"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "1"},
        {"task": True},
        {"epoch": -1},
        {"seconds": None},
        {"weights": [1]},
        {"order": torch.ones(2)},
        {"noise": ORDER},
        {"noise": [1]},
        {"record": {}},
        {"record": None},
        {"extra": 1},
    ],
)
def test_a_checkpoint_whose_fields_are_something_else_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "a.pt"
    write_checkpoint(CHECKPOINT, path)
    assert read_checkpoint(path) is not None
    torch.save({**torch.load(path, weights_only=True), **changes}, path)
    refused(path)


@pytest.mark.parametrize(
    ("field", "value"), [("baseline", [2.0]), ("accuracy", [0.5]), ("task_seconds", ["1"]), ("path_correlation", [])]
)
def test_a_checkpoint_whose_record_cannot_be_is_refused(tmp_path: Path, field: str, value: object) -> None:
    path = tmp_path / "a.pt"
    write_checkpoint(CHECKPOINT, path)
    content = torch.load(path, weights_only=True)
    torch.save({**content, "record": {**content["record"], field: value}}, path)
    refused(path, f"record.{field}")


def test_a_checkpoint_that_fails_without_a_word_is_refused_by_the_kind_of_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pt"
    write_checkpoint(CHECKPOINT, path)

    def fail(*arguments: Any, **named: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(torch, "load", fail)
    refused(path, "MemoryError. Delete it")


def test_a_checkpoint_that_unpacks_to_more_than_it_holds_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    write_checkpoint(CHECKPOINT, path)
    with zipfile.ZipFile(path) as whole:
        parts = {info.filename: whole.read(info) for info in whole.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in {**parts, "a/data/9": bytes(10**6)}.items():
            packed.writestr(name, content)
    refused(path, "it would unpack to more than the file holds")


def fails_without_a_name(path: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fails_with_its_own_name(path: Path) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))


@pytest.mark.parametrize("fail", [fails_without_a_name, fails_with_its_own_name])
def test_an_error_of_the_system_names_the_file_that_was_to_be_written(
    tmp_path: Path, fail: Callable[[Path], None]
) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(OSError, match=r"left on device|Read-only") as caught, replacing(path) as temporary:
        fail(temporary)
    assert caught.value.filename == str(path)


def test_an_error_about_another_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "a.json"):
        (tmp_path / "other").read_bytes()
    assert caught.value.filename == str(tmp_path / "other")


def test_what_a_kill_has_left_of_figure_and_page_is_cleared(tmp_path: Path) -> None:
    from tiny import SETTINGS, TINY

    for name in (".report.html.x.part", ".figure.png.y.part", ".result.json.z.part", ".notes.part"):
        (tmp_path / name).touch()
    clean_up(Plan(TINY, SETTINGS, device="cpu", threads=1, data_dir=None, out=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [".notes.part"]
