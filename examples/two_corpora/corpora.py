"""Three English corpora from Debian packages, one sentence a line: WordNet, the King James Bible, fortunes.

`python examples/two_corpora/corpora.py DIR` writes them to DIR, for `run.py --corpora DIR` on another machine.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

PACKAGES = "apt-get install wordnet-base bible-kjv bible-kjv-text fortunes fortunes-min"
WORDNET = Path("/usr/share/wordnet")
FORTUNES = Path("/usr/share/games/fortunes")
NOT_PROSE = {"ascii-art", "translate-me"}  # drawings, and other languages
FEWEST, MOST = 4, 60  # words of a sentence

# Where a sentence ends: at its mark and what closes with it, if what follows may begin one, but not after a title.
_END = re.compile(r"""(?<!\bMr)(?<!\bMrs)(?<!\bDr)(?<!\bSt)([.!?]+["')\]]*)\s+(?=["'(\[]*[A-Z0-9])""")
_SIGNATURE = re.compile(r"^\s*--\s*\S.*", flags=re.MULTILINE | re.DOTALL)  # it runs to the fortune's end
_BLOCK = 50  # sentences that follow one another, and go to the same part


@final
@dataclass(frozen=True)
class Corpus:
    """Sentences to train on, and two held-out parts: one to choose a strength by, one to report."""

    name: str
    train: list[str]
    validation: list[str]
    test: list[str]

    def described(self) -> dict[str, object]:
        """Its sizes and checksum, for the header of a result."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        text = "\n".join(sentence for part in parts.values() for sentence in part)
        sizes = {part: len(sentences) for part, sentences in parts.items()}
        return {"sentences": sizes, "bytes": len(text.encode()), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def corpus(name: str, sentences: list[str], limit: int) -> Corpus:
    """Take about ``limit`` sentences in blocks spread evenly over the text; every sixth block is held out."""
    blocks = [sentences[i : i + _BLOCK] for i in range(0, len(sentences) - _BLOCK + 1, _BLOCK)]
    count = min(limit // _BLOCK, len(blocks))
    if count < 12:
        raise ValueError(f"{name}: {len(sentences)} sentences, limit {limit}; needed are at least {12 * _BLOCK}")
    taken = [blocks[i * len(blocks) // count] for i in range(count)]
    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for i, block in enumerate(taken):
        parts[{3: "validation", 9: "test"}.get(i % 12, "train")] += block
    return Corpus(name, **parts)


def read_corpora(folder: Path | None, limits: dict[str, int]) -> dict[str, Corpus]:
    """Read the corpora from a folder, or from where Debian puts them, and take so many sentences of each."""
    texts = {name: read() for name, read in READERS.items()} if folder is None else _from_folder(folder)
    return {name: corpus(name, sentences, limits[name]) for name, sentences in texts.items()}


def wordnet() -> Iterator[str]:
    """Definitions, each with its word before it, and the examples of its use."""
    for part in ("noun", "verb", "adj", "adv"):
        for line in _text(WORDNET / f"data.{part}").splitlines():
            if line.startswith("  "):
                continue  # the licence
            entry, _, gloss = line.partition(" | ")
            word = entry.split()[4].partition("(")[0].replace("_", " ")
            definition, *_ = gloss.split('; "')
            yield f"{word}: {definition.strip()}."
            yield from re.findall(r'"([^"]+)"', gloss)


def bible() -> Iterator[str]:
    """The whole of it, without the references of verses, as the program `bible` prints it."""
    try:
        printed = subprocess.run(
            ["bible", "-f", "ge1:1-rev22:21"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
        )
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no program `bible`: {PACKAGES}; or give --corpora DIR") from error
    yield from _sentences(" ".join(line.partition(" ")[2] for line in printed.stdout.splitlines()))


def fortunes() -> Iterator[str]:
    """The prose of fortunes, without who said it."""
    for file in sorted(FORTUNES.glob("*")):
        if file.suffix or file.name in NOT_PROSE:
            continue
        for fortune in re.split(r"^%\n", _text(file), flags=re.MULTILINE):
            unstruck = re.sub(".\b", "", fortune)  # letters struck over
            yield from _sentences(_SIGNATURE.sub("", unstruck))
    if not FORTUNES.is_dir():
        raise FileNotFoundError(f"there is no folder {FORTUNES}: {PACKAGES}; or give --corpora DIR")


def _distinct(sentences: Iterator[str]) -> list[str]:
    """Sentences of an ordinary length that are mostly letters, each once."""
    found: dict[str, None] = {}
    for sentence in (" ".join(sentence.split()) for sentence in sentences):
        letters = sum(letter.isalpha() or letter == " " for letter in sentence)
        if FEWEST <= len(sentence.split()) <= MOST and letters >= 0.8 * len(sentence):
            found.setdefault(sentence)
    return list(found)


READERS: dict[str, Callable[[], list[str]]] = {
    "wordnet": lambda: _distinct(wordnet()),
    "bible": lambda: _distinct(bible()),
    "fortunes": lambda: _distinct(fortunes()),
}


def _sentences(text: str) -> list[str]:
    return _END.sub(r"\1\n", " ".join(text.split())).split("\n")


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no {file}: {PACKAGES}; or give --corpora DIR") from error


def _from_folder(folder: Path) -> dict[str, list[str]]:
    files = {name: folder / f"{name}.txt" for name in READERS}
    missing = [file.name for file in files.values() if not file.exists()]
    if missing:
        raise FileNotFoundError(f"--corpora {folder}: {missing} is not there (a text file, one sentence a line)")
    return {name: file.read_text("utf-8").splitlines() for name, file in files.items()}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for name, read in READERS.items():
        sentences = read()
        (Path(sys.argv[1]) / f"{name}.txt").write_text("\n".join([*sentences, ""]), "utf-8")
        print(f"{name}: {len(sentences)} sentences")
