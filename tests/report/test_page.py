from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest

from synaptic_intelligence.report.figure import draw_figure
from synaptic_intelligence.report.page import write_page
from synaptic_intelligence.result import Result

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@dataclass
class Page(HTMLParser):
    """What a page holds: its tags with their attributes, its tables as cells, and its text outside the figure."""

    source: str
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    tables: list[list[list[str]]] = field(default_factory=list)
    text: str = ""
    _inside: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "br"}:
            self._inside.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in {"td", "th"}:
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._inside.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        if "svg" in self._inside or "style" in self._inside:
            return
        self.text += data
        if {"td", "th"} & set(self._inside):
            self.tables[-1][-1][-1] += data.replace("\N{NO-BREAK SPACE}", " ")


def written(result: Result, folder: Path) -> Page:
    path = folder / "index.html"
    write_page(result, draw_figure(result), path)
    return Page(path.read_text("utf-8"))


def test_the_tables_hold_every_number(make_result: Callable[..., Result], tmp_path: Path) -> None:
    results, runs, settings, environment = written(make_result(tasks=2, seeds=2, unfinished=1), tmp_path).tables
    assert results == [
        ["method", "seeds", "0 or 1", "2 or 3", "average", "forgetting", "backward transfer"],
        # Seeds 0.9 and 0.8: half the difference times t(0.975, 1) = 12.7062.
        [
            "without synapses (c = 0)",
            "2",
            "0.850 ± 0.635",
            "1.000 ± 0.000",
            "0.925 ± 0.318",
            "0.150 ± 0.635",
            "-0.150 ± 0.635",
        ],
        ["c = 1", "1", "0.990", "1.000", "0.995", "0.010", "-0.010"],
    ]
    assert runs == [
        ["method", "seed", "tasks learnt", "0 or 1", "2 or 3", "average", "seconds"],
        ["without synapses (c = 0)", "0", "2 of 2", "0.900", "1.000", "0.950", "4.0"],
        ["without synapses (c = 0)", "1", "2 of 2", "0.800", "1.000", "0.900", "4.0"],
        ["c = 1", "0", "2 of 2", "0.990", "1.000", "0.995", "4.0"],
        ["c = 1", "1", "1 of 2", "1.000", "-", "1.000", "2.0"],
    ]
    assert settings == [["batch size", "64"], ["hidden", "[256, 256]"], ["note", "<script>alert('settings')</script>"]]
    assert environment == [["torch", "2.13.0"], ["threads", "2"]]


def test_every_method_stands_in_the_tables_by_name(make_result: Callable[..., Result], tmp_path: Path) -> None:
    rivals = (("joint", None), ("ewc", 30.0), ("scratch", None), ("ewc", 4.0), ("sgd-dropout", None))
    page = written(make_result(tasks=2, strengths=(1.0,), rivals=rivals, seeds=1), tmp_path)
    results, runs, _, _ = page.tables
    learnt_in_turn = ["0.990", "1.000", "0.995", "0.010", "-0.010"]
    assert results[1:] == [
        ["c = 1", "1", *learnt_in_turn],
        ["all tasks at once", "1", "0.990", "0.980", "0.985", "-", "-"],
        ["EWC, c = 30", "1", *learnt_in_turn],
        ["each task from scratch", "1", "0.990", "1.000", "0.995", "-", "-"],
        ["EWC, c = 4", "1", *learnt_in_turn],
        ["SGD with dropout", "1", *learnt_in_turn],
    ]
    in_turn = ["0", "2 of 2", "0.990", "1.000", "0.995", "4.0"]
    assert runs[1:] == [
        ["c = 1", *in_turn],
        ["EWC, c = 4", *in_turn],
        ["EWC, c = 30", *in_turn],
        # All tasks are learnt at the end of its only stage.
        ["all tasks at once", "0", "2 of 2", "0.990", "0.980", "0.985", "2.0"],
        ["each task from scratch", *in_turn],
        ["SGD with dropout", *in_turn],
    ]
    label = str(next(attributes for tag, attributes in page.tags if tag == "figure")["aria-label"])
    for name in ("c = 1: 0.995", "all tasks at once: 0.985", "EWC, c = 30: 0.995", "SGD with dropout: 0.995"):
        assert name in label


def test_all_tasks_at_once_before_its_end_has_learnt_none(make_result: Callable[..., Result], tmp_path: Path) -> None:
    result = make_result(tasks=2, strengths=(1.0,), rivals=(("joint", None),), seeds=1, unfinished=1)
    results, runs, *_ = written(result, tmp_path).tables
    assert [row[0] for row in results[1:]] == ["c = 1"]
    assert runs[-1] == ["all tasks at once", "0", "0 of 2", "-", "-", "-", "0.0"]


def test_it_says_how_it_was_made_and_after_whom(make_result: Callable[..., Result], tmp_path: Path) -> None:
    text = written(make_result(), tmp_path).text
    assert "synaptic run split-mnist --seeds 3" in text
    assert "Started 2025-01-31 12:00 UTC, took 1.6 minutes." in text
    assert "arXiv 1703.04200" in text


def test_deviations_and_unfinished_runs_are_said(make_result: Callable[..., Result], tmp_path: Path) -> None:
    text = written(make_result(deviations=["2 epochs <b>instead</b> of 10"], unfinished=1), tmp_path).text
    assert "This is not the paper's protocol: 2 epochs <b>instead</b> of 10." in text
    assert "Incomplete: 5 of 6 runs are complete. Only these are shown." in text
    full = written(make_result(), tmp_path).text
    assert "protocol" not in full
    assert "ncomplete" not in full


def test_it_loads_nothing_and_runs_nothing(make_result: Callable[..., Result], tmp_path: Path) -> None:
    evil = "<script src='https://example.org/x.js'></script><img src=x onerror=alert(1)>"
    names = [f"{evil}{i}" for i in range(5)]
    page = written(make_result(title=evil, task_names=names, command=evil, deviations=[evil]), tmp_path)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            # References within the page are the figure's; the source is a link that a reader may follow.
            target = attributes.get(name) or "#"
            assert target.startswith("#") or (tag == "a" and target == "https://arxiv.org/abs/1703.04200")
    assert not re.search(r"@import|url\((?!#)", page.source)
    policies = [a.get("content") for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_it_can_be_read_without_eyes(make_result: Callable[..., Result], tmp_path: Path) -> None:
    page = written(make_result(), tmp_path)
    assert ("html", {"lang": "en"}) in page.tags
    (figure,) = [attributes for tag, attributes in page.tags if tag == "figure"]
    assert figure["role"] == "img"
    # Seeds at c = 0: 0.8, 0.6 and (0 + 0.1 + 0.4 + 0.7 + 1) / 5 = 0.44, so s = 0.1804; t(0.975, 2) / sqrt(3) = 2.4841.
    assert "Average after the last task: without synapses (c = 0): 0.613 ± 0.448; c = 1: 0.960 ± 0.050." in str(
        figure["aria-label"]
    )
    assert [tag for tag, _ in page.tags if tag == "caption"] == ["caption", "caption"]
    assert {a.get("scope") for tag, a in page.tags if tag == "th"} == {"row", "col"}
    assert [tag for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)] == ["h1", "h2", "h2", "h2", "h2"]


@pytest.mark.parametrize("changes", [{"unfinished": 2}, {"runs": []}, {"tasks": 1}, {"tasks": 10, "strengths": [0.5]}])
def test_unusual_results_make_a_page(
    make_result: Callable[..., Result], tmp_path: Path, changes: dict[str, object]
) -> None:
    page = written(make_result(seeds=1, **changes), tmp_path)
    assert len(page.tables) == 4
    assert ("No run is complete." in page.tables[0][1]) is ("unfinished" in changes or "runs" in changes)


def test_the_same_result_makes_the_same_page(make_result: Callable[..., Result], tmp_path: Path) -> None:
    assert written(make_result(), tmp_path).source == written(make_result(), tmp_path).source


def test_a_failure_leaves_the_old_page(
    make_result: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "index.html"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_page(make_result(), draw_figure(make_result()), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


# What the browser shows, written into the page itself, which --dump-dom then prints. The page's own policy forbids
# scripts, so the copy that is measured allows this one, and nothing more.
MEASURE = """<script>addEventListener("load", () => {
  const box = (selector) => document.querySelector(selector).getBoundingClientRect();
  const seen = {
    svg: box("figure svg").width > 500 && box("figure svg").height > 100 && box("figure svg path").width > 0,
    rows: document.querySelectorAll("#results tbody tr").length,
    rowsSeen: [...document.querySelectorAll("#results tbody tr")].filter((row) => row.offsetHeight > 10).length,
    runsHidden: !document.querySelector("#runs").checkVisibility(),
    headline: document.querySelector("h1").innerText,
    fits: document.documentElement.scrollWidth <= innerWidth,
    requests: performance.getEntriesByType("resource").length,
  };
  document.querySelector("summary").click();
  seen.runsShown = document.querySelector("#runs").checkVisibility();
  document.documentElement.setAttribute("data-seen", JSON.stringify(seen));
});</script></body>"""


def test_chromium_shows_it(make_result: Callable[..., Result], tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no browser: the CI must have one of {', '.join(BROWSERS)}")
        pytest.skip("no Chromium on this machine")
    source = written(make_result(strengths=(0.0, 0.1, 1.0)), tmp_path).source
    measured = source.replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'")
    path = tmp_path / "measured.html"
    path.write_text(measured.replace("</body>", MEASURE), "utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    command = [browser, *options, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1000,1400", "--dump-dom"]
    # Chromium writes about buses and GPUs that a bare machine lacks to stderr.
    shown = subprocess.run(
        [*command, path.as_uri()], capture_output=True, text=True, encoding="utf-8", timeout=60, check=True
    ).stdout
    html = next(attributes for tag, attributes in Page(shown).tags if tag == "html")
    assert html.get("data-seen") == (
        '{"svg":true,"rows":3,"rowsSeen":3,"runsHidden":true,"headline":"Split MNIST",'
        '"fits":true,"requests":0,"runsShown":true}'
    )
