"""The path integrals that are kept to be compared: whole, or refused."""

from __future__ import annotations

import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from synaptic_intelligence.experiments.checkpoint import CheckpointError
from synaptic_intelligence.experiments.method import Method
from synaptic_intelligence.experiments.paths import compare_paths, correlation
from synaptic_intelligence.experiments.plan import Job

FIRST, LATER = Job(0, None), Job(0, Method("si", 0.1))


def _path(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"weight": torch.randn(30, 40, generator=generator), "bias": torch.randn(30, generator=generator)}


def test_the_correlation_is_that_of_numpy() -> None:
    a, b = _path(0)["weight"], _path(0)["weight"] + _path(1)["weight"]
    expected = np.corrcoef(a.flatten().double(), b.flatten().double())[0, 1]
    assert correlation(a, b) == pytest.approx(expected, abs=1e-12)
    assert correlation(a, torch.ones_like(a)) == 0.0
    assert correlation(a, -a) == pytest.approx(-1.0)


def test_weight_matrices_are_compared_with_all_tasks_before(tmp_path: Path) -> None:
    first = compare_paths(tmp_path, FIRST, 0, _path(0), {})
    second = compare_paths(tmp_path, LATER, 1, _path(1), first)
    third = compare_paths(tmp_path, LATER, 2, _path(2), second)
    weights = [_path(seed)["weight"].flatten().double().numpy() for seed in range(3)]
    assert list(third) == ["weight"]
    expected = np.corrcoef(weights)
    for i, row in enumerate(third["weight"]):
        assert row == pytest.approx(expected[i, : i + 1], abs=1e-12)


@pytest.mark.parametrize("harm", ["bit", "cut", "gone"])
@pytest.mark.parametrize(("task", "checkpoint"), [(0, "seed-0-first-task.pt"), (1, "seed-0-c-0.1.pt")])
def test_a_damaged_or_missing_path_is_named_with_the_way_out(
    tmp_path: Path, harm: str, task: int, checkpoint: str
) -> None:
    found = compare_paths(tmp_path, FIRST, 0, _path(0), {})
    found = compare_paths(tmp_path, LATER, 1, _path(1), found)
    path = tmp_path / checkpoint.replace(".pt", f".path-{task}.pt")
    content = bytearray(path.read_bytes())
    if harm == "bit":
        with zipfile.ZipFile(path) as archive:
            largest = max(archive.infolist(), key=lambda part: part.file_size)
        names = struct.unpack_from("<HH", content, largest.header_offset + 26)
        content[largest.header_offset + 30 + sum(names) + largest.file_size // 2] ^= 1
    path.write_bytes(content[: len(content) // 2] if harm == "cut" else content)
    if harm == "gone":
        path.unlink()
    way_out = rf"{re.escape(path.name)} cannot be read: .*Delete it and {re.escape(checkpoint)}, then resume"
    with pytest.raises(CheckpointError, match=way_out):
        compare_paths(tmp_path, LATER, 2, _path(2), found)
