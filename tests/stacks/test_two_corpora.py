"""The example of two corpora, in its quick form on made-up text, and the tables that the docs make from its file."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from two_corpora_table import PARTS, chosen, draw_two_corpora, forgotten_table, search_table

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "two_corpora"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three corpora of made-up sentences. In each, words follow one another in an order of their own."""
    folder = tmp_path_factory.mktemp("corpora")
    words = [start + vowel + "n" for start in "bdfgklmnprst" for vowel in "aeiou"]
    for seed, name in enumerate(("wordnet", "bible", "fortunes")):
        draw = random.Random(seed)
        follower = dict(zip(words, draw.sample(words, len(words)), strict=True))
        sentences = []
        for _ in range(1300):
            sentence = [draw.choice(words)]
            while len(sentence) < 9:
                sentence.append(follower[sentence[-1]])
            sentences.append(" ".join(sentence))
        (folder / f"{name}.txt").write_text("\n".join(sentences) + "\n", "utf-8")
    return folder


def run(folder: Path, out: Path) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", str(EXAMPLE / "run.py"), "--quick"]
    command += ["--corpora", str(folder), "--out", str(out)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # more wait for one another where cores are busy
    done = subprocess.run(command, capture_output=True, text=True, cwd=out.parent, env=one_thread)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(out.read_text("utf-8"))
    return found


def load(name: str) -> Any:
    """A module of the example, which is no package, made anew."""
    spec = importlib.util.spec_from_file_location(f"two_corpora_{name}", EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where a dataclass looks its annotations up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def file(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "two-corpora-quick.json"
    run(folder, out)
    return out


def loss(found: dict[str, Any], corpus: str, **key: Any) -> float:
    (row,) = (row for row in found["rows"] if key.items() <= row.items())
    return float(row["loss"][corpus])


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_synapses_keep_the_first_corpus_better_than_training_without(file: Path, kind: str) -> None:
    """With synapses the loss on the first corpus rises by less than three quarters of what it rises without."""
    found = json.loads(file.read_text("utf-8"))
    before = loss(found, "bible", stage="first", kind=kind)
    c = found["protocol"]["c"][kind]
    without, held = (loss(found, "bible", stage="second", kind=kind, c=c) - before for c in (0.0, c))
    assert without > 0.5
    assert held < 0.75 * without


def test_a_stopped_run_goes_on_to_the_same_numbers(file: Path, folder: Path, tmp_path: Path) -> None:
    """Rows that are missing are made again, bit for bit, and those that are there are left alone."""
    whole = json.loads(file.read_text("utf-8"))
    missing = {"stage": "second", "kind": "lora"}
    rows = [row for row in whole["rows"] if not missing.items() <= row.items()]
    assert len(rows) == len(whole["rows"]) - 2
    (tmp_path / file.name).write_text(json.dumps({**whole, "rows": rows}), "utf-8")
    found = run(folder, tmp_path / file.name)
    assert found["rows"][: len(rows)] == rows
    for c in (0.0, whole["protocol"]["c"]["lora"]):
        for corpus in ("bible", "fortunes"):
            assert loss(found, corpus, **missing, c=c) == loss(whole, corpus, **missing, c=c)


@pytest.mark.parametrize("part", ["forgotten", "language", "price", "corpora"])
def test_every_table_of_a_quick_run_says_that_it_is_one(file: Path, part: str) -> None:
    """A tiny form is never mistaken for the experiment, in tables and in the figure."""
    assert "tiny form" in PARTS[part](file)
    texts = [text.get_text() for text in draw_two_corpora(json.loads(file.read_text("utf-8"))).texts]
    assert any("tiny form" in text for text in texts)


def made_up(losses: dict[tuple[int, float], tuple[float, float]], form: str = "full") -> dict[str, Any]:
    """A file of two seeds whose losses are known, in full alone: on A and B after B, by seed and c."""
    seeds = sorted({seed for seed, _ in losses})
    base = {"wordnet": 5.0, "bible": 6.0, "fortunes": 6.0}
    first = {"wordnet": 5.5, "bible": 3.0, "fortunes": 6.0}
    rows: list[dict[str, Any]] = [{"seed": seed, "stage": "base", "loss": base} for seed in seeds]
    rows += [{"seed": s, "stage": "first", "kind": "full", "loss": first, "squared_movement": 1e-4} for s in seeds]
    for (seed, c), (a, b) in losses.items():
        after = {"wordnet": 6.0, "bible": a, "fortunes": b}
        rows.append({"seed": seed, "stage": "second", "kind": "full", "c": c, "loss": after})
    protocol = {"c": {"full": 2.0, "lora": 2.0}, "xi": 1e-4, "epochs": {"fortunes": 1}}
    environment = {"device_name": "a processor", "torch": "2"}
    header = {"form": form, "protocol": protocol, "environment": environment, "processor_seconds": 60.0}
    return {**header, "command": "python run.py", "rows": rows}


def test_the_table_has_the_right_numbers(tmp_path: Path) -> None:
    """Means, Student's t intervals over two seeds, the share kept, and the cost seed by seed."""
    found = made_up({(0, 0.0): (4.0, 4.0), (1, 0.0): (4.0, 4.2), (0, 2.0): (3.5, 4.1), (1, 2.0): (3.3, 4.3)})
    file = tmp_path / "two-corpora.json"
    file.write_text(json.dumps(found), "utf-8")
    lines = forgotten_table(file).splitlines()
    half = 12.706204736174694 * 0.1  # t(0.975, 1) s / sqrt(2), for values that are 0.2 apart
    assert (
        f"| in full, without synapses | 2 | 3.000 ± 0.000 | 4.000 ± 0.000 | 1.000 ± 0.000 |  | 4.100 ± {half:.3f} |  |"
        in lines
    )
    held = f"3.400 ± {half:.3f} | 0.400 ± {half:.3f} | 60 ± {100 * half:.0f} %"
    assert f"| in full, c = 2 | 2 | 3.000 ± 0.000 | {held} | 4.200 ± {half:.3f} | 0.100 ± 0.000 |" in lines


def test_the_strength_with_the_least_mean_loss_is_chosen(tmp_path: Path) -> None:
    """On validation sentences, over both corpora after the second; training without synapses is no choice."""
    found = made_up(
        {(9, 0.0): (3.0, 3.0), (9, 1.0): (3.9, 4.0), (9, 10.0): (3.2, 4.4), (9, 100.0): (3.1, 5.0)}, "search"
    )
    assert chosen(found) == {"full": 10.0}
    file = tmp_path / "two-corpora-search.json"
    file.write_text(json.dumps(found), "utf-8")
    assert "| **in full, c = 10** | 3.000 | 3.200 | 4.400 | 3.800 |" in search_table(file)


def test_the_strengths_of_the_protocol_are_those_that_the_search_has_found() -> None:
    """What the committed run was made with is what the committed search says."""
    found = json.loads((ROOT / "results" / "two-corpora-search.json").read_text("utf-8"))
    assert chosen(found) == load("protocol").PROTOCOL.c
    assert {row["seed"] for row in found["rows"]}.isdisjoint(range(5))


# Where the corpora come from.


@pytest.fixture
def corpora() -> Any:
    return load("corpora")


def test_fortunes_are_sentences_without_who_said_them(corpora: Any, tmp_path: Path) -> None:
    """Signatures, drawings and index files are left out, and a title ends no sentence."""
    fortune = 'Mr. Smith said: "Go to\nthe sea." He went there at once.\n\t\t-- A. Nobody, "Works",\n\t\t   1899\n%\n'
    (tmp_path / "people").write_text(fortune + "Too short.\n%\n|| 12 || 34 || 56 || 78 ||\n", "utf-8")
    (tmp_path / "people.dat").write_bytes(b"\xff\x00")
    (tmp_path / "ascii-art").write_text("This is a drawing of a sentence.\n", "utf-8")
    corpora.FORTUNES = tmp_path
    assert corpora.READERS["fortunes"]() == ['Mr. Smith said: "Go to the sea."', "He went there at once."]


def test_wordnet_is_definitions_and_examples(corpora: Any, tmp_path: Path) -> None:
    """The licence is left out, and a definition has its word before it."""
    licence = "  1 This software and database is being provided to you.\n"
    gloss = 'draw air into the lungs; "I can breathe well now"'
    entry = f"00001740 29 v 02 take_a_breath 0 respire 3 001 @ 00005041 v 0000 | {gloss}\n"
    for part in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"data.{part}").write_text(licence + (entry if part == "verb" else ""), "utf-8")
    corpora.WORDNET = tmp_path
    assert corpora.READERS["wordnet"]() == ["take a breath: draw air into the lungs.", "I can breathe well now"]


def test_held_out_sentences_are_in_no_other_part(corpora: Any) -> None:
    """Blocks of fifty, spread over the whole text: of twelve, ten train, one validates and one tests."""
    sentences = [f"sentence {i}" for i in range(5000)]
    found = corpora.corpus("made up", sentences, 1200)
    assert (len(found.train), len(found.validation), len(found.test)) == (1000, 100, 100)
    assert len({*found.train, *found.validation, *found.test}) == 1200
    assert int(found.train[-1].split()[1]) > 4500
    with pytest.raises(ValueError, match="made up: 5000 sentences, limit 100; needed are at least 600"):
        corpora.corpus("made up", sentences, 100)


@pytest.mark.parametrize("name", ["wordnet", "fortunes"])
def test_without_the_packages_an_error_says_which_to_install(corpora: Any, tmp_path: Path, name: str) -> None:
    """It also names --corpora, for machines that have no such packages."""
    corpora.WORDNET = corpora.FORTUNES = tmp_path / "absent"
    with pytest.raises(FileNotFoundError, match=r"apt-get install wordnet-base .*fortunes.*--corpora DIR"):
        corpora.READERS[name]()


def test_a_folder_that_lacks_a_corpus_is_refused(corpora: Any, tmp_path: Path) -> None:
    """The error names the files that are missing."""
    (tmp_path / "bible.txt").write_text("In the beginning.\n", "utf-8")
    with pytest.raises(FileNotFoundError, match=r"\['wordnet.txt', 'fortunes.txt'\] is not there"):
        corpora.read_corpora(tmp_path, {})
