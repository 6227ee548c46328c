from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from synaptic_intelligence.drawing.style import save_figure, svg_text
from synaptic_intelligence.report.figure import draw_figure
from synaptic_intelligence.result import Result


def lines(ax: Axes) -> dict[str, ErrorbarContainer]:
    return {
        str(container.get_label()): container for container in ax.containers if isinstance(container, ErrorbarContainer)
    }


def points(container: ErrorbarContainer) -> tuple[list[float], list[float]]:
    """The points that are drawn, x moved back to the number of tasks learnt."""
    line = container.lines[0]
    assert line is not None
    x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
    return np.round(x).tolist(), np.round(y, 12).tolist()


def words(figure: Figure) -> str:
    legend = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return " ".join([*(text.get_text() for text in figure.texts), *legend])


def test_a_panel_for_each_task_from_its_own_training_onwards(make_result: Callable[..., Result]) -> None:
    figure = draw_figure(make_result(tasks=3))
    assert [ax.get_title() for ax in figure.axes] == ["task 1", "task 2", "task 3", "average"]
    assert [text.get_text() for ax in figure.axes[:3] for text in ax.texts if " or " in text.get_text()] == [
        "0 or 1",
        "2 or 3",
        "4 or 5",
    ]
    drawn = [points(lines(ax)["without synapses (c = 0)"]) for ax in figure.axes]
    assert drawn[0] == ([1, 2, 3], [1.0, 0.8, 0.6])
    assert drawn[1] == ([2, 3], [1.0, 0.8])
    assert drawn[2] == ([3], [1.0])
    assert drawn[3] == ([1, 2, 3], [1.0, 0.9, 0.8])


def test_all_panels_have_one_scale_with_chance_and_every_mean_in_it(make_result: Callable[..., Result]) -> None:
    figure = draw_figure(make_result(seeds=2, chance=0.1))
    assert {ax.get_ylim() for ax in figure.axes} == {figure.axes[0].get_ylim()}
    assert {ax.get_xlim() for ax in figure.axes} == {(0.6, 5.4)}
    low, high = figure.axes[0].get_ylim()
    assert low < 0.1
    assert high >= 1.0
    for ax in figure.axes:
        dashed = [line for line in ax.get_lines() if line.get_linestyle() == "--"]
        assert [list(np.asarray(line.get_ydata())) for line in dashed] == [[0.1, 0.1]]
        for container in lines(ax).values():
            assert all(low < y < high for y in points(container)[1])


def test_with_synapses_is_blue_and_without_is_vermilion(make_result: Callable[..., Result]) -> None:
    figure = draw_figure(make_result(strengths=(1.0, 0.0)))
    handles = lines(figure.axes[0])
    assert list(handles) == ["without synapses (c = 0)", "c = 1"]
    colors = [container.lines[0].get_color() for container in handles.values() if container.lines[0]]
    without, with_synapses = (matplotlib.colors.to_rgb(color) for color in colors)
    assert matplotlib.colors.to_hex(without) == "#d55e00"
    assert matplotlib.colors.to_hex(with_synapses) == "#0072b2"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["without synapses (c = 0)", "c = 1"]


def test_intervals_only_over_several_seeds(make_result: Callable[..., Result]) -> None:
    several, one = draw_figure(make_result(tasks=3, seeds=3)), draw_figure(make_result(tasks=3, seeds=1))
    for ax in several.axes:
        assert all(container.has_yerr for container in lines(ax).values())
    for ax in one.axes:
        assert not any(container.has_yerr for container in lines(ax).values())
    # Seeds 0.98, 0.96 and 0.94 after two more tasks: 4.302653 * 0.02 / sqrt(3).
    (bars,) = lines(several.axes[0])["c = 1"].lines[2]
    segments = bars.get_segments()
    low, high = segments[-1][:, 1]
    assert (low + high) / 2 == pytest.approx(0.96)
    assert (high - low) / 2 == pytest.approx(0.0496828, rel=1e-5)
    assert "Mean and 95 % interval (Student's t) over 3 seeds." in words(several)
    assert "One seed, so no interval." in words(one)


@pytest.mark.parametrize("tasks", [3, 7])
def test_what_is_drawn_as_a_level_takes_no_room_for_an_interval(tasks: int, make_result: Callable[..., Result]) -> None:
    result = make_result(tasks=tasks, seeds=3, strengths=(1.0,), rivals=(("joint", None),))
    for run in result.runs:
        for row in run.accuracy:
            row[:] = [0.55 + 0.2 * run.seed if run.method == "joint" else 0.7] * tasks
    # 0.75 ± 0.50, and chance at 0.5.
    figure = draw_figure(result)
    assert 0.3 < figure.axes[-1].get_ylim()[0] < 0.5
    assert set(np.asarray(level(figure.axes[-1], "all tasks at once").get_ydata(), float).round(12)) == {0.75}


@pytest.mark.parametrize("tasks", [3, 7])
def test_intervals_are_cut_only_where_no_accuracy_can_be(tasks: int, make_result: Callable[..., Result]) -> None:
    result = make_result(tasks=tasks, seeds=3, strengths=(1.0,))
    for run in result.runs:
        for row in run.accuracy:
            row[:] = [0.4 + 0.15 * run.seed] * tasks
    # Seeds 0.4, 0.55 and 0.7: 0.55 ± 0.373, which reaches below chance (0.5) on every panel.
    for ax in draw_figure(result).axes:
        low, high = ax.get_ylim()
        assert low < 0.55 - 4.302653 * 0.15 / 3**0.5
        assert high > 0.55 + 4.302653 * 0.15 / 3**0.5
    for run in result.runs:
        for row in run.accuracy:
            row[:] = [0.1 if run.seed else 0.9] * tasks
    # 0.37 ± 1.15: what is possible has nearly all of the panel, but not all of it.
    for ax in draw_figure(result).axes:
        low, high = (ax.transData + ax.transAxes.inverted()).transform([(1, 0), (1, 1)])[:, 1]
        assert 0 < low < 0.12
        assert 0.9 < high < 1


def test_the_last_averages_are_written_without_overlap(make_result: Callable[..., Result]) -> None:
    figure = draw_figure(make_result(tasks=10, strengths=(0.0, 0.01, 0.02, 0.1), seeds=1))
    values = [text for text in figure.axes[-1].texts if text.get_text().startswith("0.")]
    # Three strengths end at the same average.
    assert [text.get_text() for text in values] == ["0.955", "0.955", "0.955", "0.550"]
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in values]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
    assert all(box.x1 <= figure.bbox.x1 for box in boxes)


def test_of_many_tasks_the_first_the_newest_and_the_average_are_drawn(make_result: Callable[..., Result]) -> None:
    figure = draw_figure(make_result(tasks=10, strengths=(0.0, 0.01, 0.02, 0.1)))
    assert [ax.get_title() for ax in figure.axes] == ["task 1", "newest task", "average"]
    colors = [container.lines[0].get_color() for container in lines(figure.axes[0]).values() if container.lines[0]]
    assert len(set(colors)) == 4


def test_the_newest_task_is_shown_as_it_was_just_learnt(make_result: Callable[..., Result]) -> None:
    result = make_result(tasks=7, strengths=(1.0,), rivals=(("joint", None), ("sgd-dropout", None)), seeds=1)
    for run in result.runs:
        if run.method != "joint":
            for i, row in enumerate(run.accuracy):
                row[i] = 0.3 - 0.01 * i
    first, newest, average = draw_figure(result).axes
    for name in ["c = 1", "SGD with dropout"]:
        x, y = points(lines(newest)[name])
        assert x == list(range(1, 8))
        assert y == pytest.approx([0.3, 0.29, 0.28, 0.27, 0.26, 0.25, 0.24])
    # Its scale is its own, as wide as its points need: chance, 0.5, and what is learnt well have no place there.
    low, high = newest.get_ylim()
    assert 0.2 < low < 0.24
    assert 0.3 < high < 0.4
    assert first.get_ylim() == average.get_ylim()
    assert first.get_ylim()[1] > 0.96
    # A method looks the same in all panels, whatever was run before it; what learns all at once has no newest task.
    looks = [(bars.lines[0].get_color(), bars.lines[0].get_marker()) for bars in lines(newest).values()]
    for ax in (first, average):
        assert [(bars.lines[0].get_color(), bars.lines[0].get_marker()) for bars in lines(ax).values()] == looks
        assert np.asarray(level(ax, "all tasks at once").get_ydata(), float)[0] > 0.9
    assert "all tasks at once" not in [line.get_label() for line in newest.get_lines()]


def test_of_many_tasks_the_scale_is_logarithmic_in_the_error_and_says_so(make_result: Callable[..., Result]) -> None:
    ax = draw_figure(make_result(tasks=7)).axes[0]
    assert (ax.get_yscale(), ax.get_ylabel()) == ("function", "test accuracy (error: log scale)")
    # Without synapses the first task ends at 0.4, 0 and 0, and everything was at 1 when it was learnt.
    low, high = ax.get_ylim()
    assert low < 0.4 / 3
    assert high > 1
    ax = draw_figure(make_result(tasks=6)).axes[0]
    assert (ax.get_yscale(), ax.get_ylabel()) == ("linear", "test accuracy")


def test_deviations_and_unfinished_runs_are_said(make_result: Callable[..., Result]) -> None:
    said = words(draw_figure(make_result(deviations=["2 epochs instead of 10"], unfinished=1)))
    assert "This is not the paper's protocol: 2 epochs instead of 10." in said
    assert "Incomplete: 5 of 6 runs are complete. Only these are shown." in said
    full = words(draw_figure(make_result()))
    assert "protocol" not in full
    assert "ncomplete" not in full


def test_everything_that_is_said_lies_inside_the_figure(make_result: Callable[..., Result]) -> None:
    figure = draw_figure(make_result(deviations=["WIDE LETTERS AND MANY"] * 12, unfinished=1))
    figure.canvas.draw()
    for text in figure.texts:
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
    warning = next(text for text in figure.texts if "protocol" in text.get_text())
    axis_label = next(text for text in figure.texts if text.get_text() == "tasks learnt")
    assert not warning.get_window_extent().overlaps(axis_label.get_window_extent())


RIVALS = (("ewc", 30.0), ("sgd-dropout", None), ("scratch", None), ("joint", None))
NAMES = {
    "si": ["without synapses (c = 0)", "c = 1"],
    "in turn": ["EWC, c = 30", "SGD with dropout", "each task from scratch"],
    "at once": ["all tasks at once"],
}


def level(ax: Axes, name: str) -> Line2D:
    (line,) = [line for line in ax.get_lines() if line.get_label() == name]
    return line


def test_all_tasks_at_once_is_a_level_line_at_its_mean(make_result: Callable[..., Result]) -> None:
    figure = draw_figure(make_result(tasks=3, rivals=RIVALS, seeds=2))
    # Seed 0 costs 1, 2 and 3 % on the three tasks, seed 1 twice as much.
    for ax, mean in zip(figure.axes, (0.985, 0.97, 0.955, 0.97), strict=True):
        line = level(ax, "all tasks at once")
        assert np.asarray(line.get_ydata(), float).tolist() == pytest.approx([mean, mean])
        assert line.get_linestyle() == "--"
        # From one side of the panel to the other.
        assert line.get_transform() == ax.get_yaxis_transform(which="grid")
        assert list(np.asarray(line.get_xdata())) == [0, 1]
        assert list(lines(ax)) == [*NAMES["si"], *NAMES["in turn"]]


def test_every_rival_that_learns_in_turn_has_its_points(make_result: Callable[..., Result]) -> None:
    figure = draw_figure(make_result(tasks=3, rivals=RIVALS, seeds=1))
    for name in NAMES["in turn"]:
        assert points(lines(figure.axes[0])[name]) == ([1, 2, 3], [1.0, 0.99, 0.98])
        assert points(lines(figure.axes[2])[name]) == ([3], [1.0])
        assert points(lines(figure.axes[3])[name]) == ([1, 2, 3], [1.0, 0.995, 0.99])


def test_every_method_is_named_and_has_a_colour_of_its_own(make_result: Callable[..., Result]) -> None:
    figure = draw_figure(make_result(rivals=RIVALS))
    (legend,) = figure.legends
    names = [name for kind in NAMES.values() for name in kind]
    assert sorted(text.get_text() for text in legend.get_texts()) == sorted(names)
    ax = figure.axes[0]
    colors = [container.lines[0].get_color() for container in lines(ax).values() if container.lines[0]]
    colors.append(level(ax, "all tasks at once").get_color())
    assert len({matplotlib.colors.to_hex(color) for color in colors}) == 6


@pytest.mark.parametrize(
    ("title", "tasks", "strengths", "rivals"),
    [
        ("Split MNIST", 5, (0.0, 1.0), RIVALS),
        ("Permuted MNIST", 10, (0.0, 0.01, 0.02, 0.1), RIVALS),
        ("Permuted MNIST", 10, (0.0, 0.1), (RIVALS[1], RIVALS[3])),
        ("Split CIFAR-10/CIFAR-100", 6, (0.0, 0.01, 0.1), RIVALS[2:3]),
        ("Split CIFAR-10/CIFAR-100", 6, (0.0, 0.001, 0.01, 0.1), RIVALS[2:3]),
        ("One task", 1, (0.0,), RIVALS),
    ],
)
def test_the_legend_covers_nothing(
    make_result: Callable[..., Result],
    title: str,
    tasks: int,
    strengths: tuple[float, ...],
    rivals: tuple[tuple[str, float | None], ...],
) -> None:
    figure = draw_figure(make_result(tasks=tasks, strengths=strengths, rivals=rivals, title=title))
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1 + 1
    assert box.y1 <= figure.bbox.y1
    written = [*figure.texts, *(ax.title for ax in figure.axes), *(text for ax in figure.axes for text in ax.texts)]
    assert [text.get_text() for text in written if text.get_window_extent().overlaps(box) and text.get_text()] == []


def test_the_last_averages_of_every_method_are_written(make_result: Callable[..., Result]) -> None:
    figure = draw_figure(make_result(tasks=3, rivals=RIVALS, seeds=1))
    values = [text.get_text() for text in figure.axes[-1].texts if text.get_text().startswith("0.")]
    assert sorted(values) == ["0.900", "0.980", *["0.990"] * 4]


def test_a_task_that_is_badly_learnt_at_once_is_still_in_its_panel(make_result: Callable[..., Result]) -> None:
    result = make_result(tasks=2, rivals=(("joint", None),), seeds=1)
    result.runs[-1].accuracy[0][:] = [0.9, 0.2]
    ax = draw_figure(result).axes[1]
    (low, high), y = ax.get_ylim(), np.asarray(level(ax, "all tasks at once").get_ydata(), float)[0]
    assert y == pytest.approx(0.2)
    assert low < y < high


@pytest.mark.parametrize(
    "changes",
    [{"unfinished": 2}, {"runs": []}, {"tasks": 1}, {"tasks": 40}, {"strengths": (), "rivals": RIVALS[3:]}],
)
def test_unusual_results_are_drawn(make_result: Callable[..., Result], changes: dict[str, object]) -> None:
    text = svg_text(draw_figure(make_result(seeds=1, **changes)))
    assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"


def test_a_dollar_in_a_name_is_no_mathematics(make_result: Callable[..., Result]) -> None:
    svg_text(draw_figure(make_result(title="$5 to \\oops $", deviations=["$\\frac{$"])))


def test_files_are_an_svg_and_a_png_of_1800_pixels(make_result: Callable[..., Result], tmp_path: Path) -> None:
    png, svg = save_figure(draw_figure(make_result()), tmp_path, "split-mnist")
    assert (
        sorted(path.name for path in tmp_path.iterdir())
        == [png.name, svg.name]
        == ["split-mnist.png", "split-mnist.svg"]
    )
    content = png.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(content[16:20], "big") == 1800
    assert ElementTree.parse(svg).getroot().attrib["viewBox"].startswith("0 0 648 ")


def test_a_missing_folder_is_an_error(make_result: Callable[..., Result], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        save_figure(draw_figure(make_result()), tmp_path / "missing")


def test_the_same_result_gives_the_same_bytes_whatever_the_user_has_set(
    make_result: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = save_figure(draw_figure(make_result()), tmp_path / "a")
    with matplotlib.rc_context({"font.size": 20, "svg.hashsalt": "x", "axes.facecolor": "red", "savefig.dpi": 10}):
        before = dict(matplotlib.rcParams)
        second = save_figure(draw_figure(make_result()), tmp_path / "b")
        assert dict(matplotlib.rcParams) == before
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert b"2025" not in first[1].read_bytes()


def test_no_global_figure_is_left_and_pyplot_is_not_imported() -> None:
    code = "import sys, synaptic_intelligence.report; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
