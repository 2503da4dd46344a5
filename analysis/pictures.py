"""Draw the numbers of `figures` on a given axes, in colours that a page can restyle.

Colours are stand-ins (see `STAND_INS`): in an SVG the report replaces each by a CSS variable, so
that one picture serves light and dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from analysis.columns import heading, write
from analysis.figures import (
    ACCURACY_RANGE,
    NAMED_CURVES,
    Bar,
    Confusion,
    Curve,
    Front,
    Mark,
    Parallel,
    Point,
    Span,
)
from analysis.front import Coverage

INK, MUTED, LINE, SURFACE = "#0000e0", "#0000e1", "#0000e2", "#0000e3"
SERIES = tuple(f"#0000f{i}" for i in range(8))
STAND_INS = {INK: "--ink", MUTED: "--muted", LINE: "--line", SURFACE: "--surface"} | {
    colour: f"--c{i}" for i, colour in enumerate(SERIES)
}
GOOD, BAD, ODD = SERIES[0], SERIES[5], SERIES[3]
_STATUS = {"completed": SERIES[0], "stopped": SERIES[3], "failed": SERIES[5]}
_MARKERS = "osD^vP*X"
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def svg(key: str, draw: Callable[[Axes], None], *, width: float = 5.2, height: float = 3.4) -> str:
    """Return a picture as inline SVG, its colours as CSS variables and its tips as `<title>`.

    `key` must be unique on the page: it keeps the names of clip paths apart.
    """
    with rc_context({**_STYLE, "svg.hashsalt": key}):
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="tip:([^"]*)">', r'<g class="tip"><title>\1</title>', text)
    # Only clip paths and markers are referred to by name; groups would repeat theirs.
    text = re.sub(r' id="(?![mpC]\w*[0-9a-f]{8})[^"]*"', "", text)
    # The page sets the width; the view box keeps the shape.
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    for colour, variable in STAND_INS.items():
        text = text.replace(colour, f"var({variable})")
    return text


def tip(artist: Any, text: str) -> None:
    """Give an artist a text that shows under the pointer."""
    artist.set_gid("tip:" + text.replace('"', "'"))


def draw_learning_curves(ax: Axes, curves: Sequence[Curve]) -> None:
    """Draw accuracy over epochs: the best ones named, the rest faint, single values as lines."""
    top = max((float(np.nanmax(c.accuracy)) for c in curves), default=100.0)
    longest = max((float(np.nanmax(c.epochs)) for c in curves if _over_epochs(c)), default=1.0)
    shown = list(dict.fromkeys(c.name for c in curves))[:NAMED_CURVES]
    waiting = set(shown)
    for curve in curves:
        named = curve.name in shown
        colour = SERIES[shown.index(curve.name) % len(SERIES)] if named else MUTED
        style: dict[str, Any] = {"color": colour, "lw": 1.8, "zorder": 3}
        if not named:
            style |= {"lw": 0.8, "alpha": 0.35, "zorder": 2}
        if _over_epochs(curve):
            x, y = curve.epochs, curve.accuracy
            marker = "o" if len(x) == 1 or named else ""
            style |= {"marker": marker, "ms": 3.5}
        else:
            x, y = np.array([1.0, longest]), np.full(2, curve.accuracy[-1])
            style["ls"] = (0, (4, 3))
        (line,) = ax.plot(x, y, label=curve.name if curve.name in waiting else None, **style)
        waiting.discard(curve.name)
        tip(line, f"{curve.name} ({curve.trial}): {np.nanmax(curve.accuracy):.2f} % {curve.status}")
    _limit(ax, top, min((float(np.nanmin(c.accuracy)) for c in curves), default=0.0))
    ax.set(xlabel="epoch", ylabel="validation accuracy, %")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend_below(ax)


def draw_accuracy_against_time(ax: Axes, points: Sequence[Point], column: str) -> None:
    """Draw a point per trial over logarithmic time, and the Pareto front as steps."""
    labels = list(dict.fromkeys(p.label for p in points))
    devices = list(dict.fromkeys(p.device for p in points))
    for point in points:
        colour = SERIES[labels.index(point.label) % len(SERIES)]
        (mark,) = ax.plot(
            point.seconds,
            point.accuracy,
            _MARKERS[devices.index(point.device) % len(_MARKERS)],
            color=colour,
            ms=6 if point.front else 4.5,
            alpha=1.0 if point.front else 0.55,
            mec=SURFACE,
            mew=0.6,
            zorder=4 if point.front else 3,
        )
        tip(mark, f"{point.name}: {point.accuracy:.2f} %, {point.seconds:,.1f} s")
    front = sorted((p.seconds, p.accuracy) for p in points if p.front)
    if len(front) > 1:
        ax.step(*zip(*front, strict=True), where="post", color=INK, lw=1, alpha=0.6, zorder=2)
    for label, device in dict.fromkeys((p.label, p.device) for p in points):
        colour = SERIES[labels.index(label) % len(SERIES)]
        marker = _MARKERS[devices.index(device) % len(_MARKERS)]
        name = label if len(devices) == 1 else f"{label}, {device}"
        ax.plot([], [], marker, color=colour, ms=5, mec=SURFACE, mew=0.6, label=name)
    ax.set_xscale("log")
    _plain_log(ax)
    accuracies = [p.accuracy for p in points]
    below = _limit(ax, max(accuracies), min(accuracies))
    left_out = sum(a < below for a in accuracies)
    if left_out:
        text = f"{left_out} below {below:.0f} %"
        ax.annotate(text, (0.01, 0.02), xycoords="axes fraction", color=MUTED, fontsize=8)
    split = "validation" if column == "val_accuracy" else "test"
    ax.set(xlabel="total seconds (log)", ylabel=f"{split} accuracy, %")
    _legend_below(ax)


def draw_front(ax: Axes, front: Front) -> None:
    """Draw a point per trial by two objectives, and the front as the border of what it beats."""
    named = set()
    for mark in front.marks:
        kind = _kind(mark)
        colour, marker, size = _FRONT_STYLES[kind]
        (point,) = ax.plot(
            mark.second,
            mark.first,
            marker,
            color=colour,
            ms=size,
            zorder=5 if mark.best else 4 if mark.front else 3,
            label=None if kind in named else kind,
        )
        named.add(kind)
        first = write(front.first.metric, mark.first)
        tip(point, f"{mark.name}: {first}, {write(front.second.metric, mark.second)}")
    # From the best in the second objective on, each step goes to the next better in the first.
    border = sorted(
        ((m.second, m.first) for m in front.marks if m.front),
        key=lambda point: front.second.sign * point[0],
    )
    if len(border) > 1:
        ax.step(*zip(*border, strict=True), where="post", color=SERIES[0], lw=1.2, zorder=2)
    seconds = [mark.second for mark in front.marks]
    if min(seconds) > 0 and max(seconds) > 10 * min(seconds):
        ax.set_xscale("log")
        _plain_log(ax)
    ax.set(
        xlabel=f"{heading(front.second.metric)} ({front.second.mode})",
        ylabel=f"{heading(front.first.metric)} ({front.first.mode})",
    )
    _legend_below(ax)


_FRONT_STYLES = {
    "called best": (SERIES[1], "*", 13.0),
    "on the front": (SERIES[0], "o", 7.0),
    "beaten": (MUTED, "o", 4.5),
    "beyond a bound": (BAD, "x", 6.0),
}


def _kind(mark: Mark) -> str:
    if mark.best:
        return "called best"
    if not mark.feasible:
        return "beyond a bound"
    return "on the front" if mark.front else "beaten"


def draw_coverage(ax: Axes, coverage: Coverage) -> None:
    """Draw the hypervolume over the seconds since the study began."""
    x, y = np.concatenate([[0.0], coverage.seconds]), np.concatenate([[0.0], coverage.share])
    ax.step(x, y, where="post", color=SERIES[0], lw=1.8)
    ax.set(xlabel="seconds since the first trial began", ylabel="hypervolume, %", ylim=(0, 103))


def draw_parallel(ax: Axes, parallel: Parallel) -> None:
    """Draw a line per trial through its settings; the more accurate, the stronger."""
    count = len(parallel.axes)
    rank = np.argsort(np.argsort(parallel.accuracy)) / max(len(parallel.accuracy) - 1, 1)
    jitter = np.random.default_rng(0).uniform(-0.012, 0.012, parallel.heights.shape)
    for i in np.argsort(parallel.accuracy):
        best = rank[i] == 1
        (line,) = ax.plot(
            range(count),
            parallel.heights[i] + (0 if best else 1) * jitter[i],
            color=SERIES[1] if best else SERIES[0],
            alpha=1.0 if best else 0.08 + 0.6 * rank[i] ** 2,
            lw=2.2 if best else 1.1,
            zorder=4 if best else 2,
        )
        tip(line, f"{parallel.names[i]}: {parallel.accuracy[i]:.2f} %")
    for x, axis in enumerate(parallel.axes):
        ax.axvline(x, color=MUTED, lw=0.8, alpha=0.7)
        for height, text in axis.ticks:
            ax.annotate(
                text,
                (x, height),
                xytext=(4, 3),
                textcoords="offset points",
                fontsize=8.5,
                color=INK,
                zorder=5,
                bbox={"facecolor": SURFACE, "edgecolor": "none", "alpha": 0.7, "pad": 0.6},
            )
    ax.set(ylim=(-0.06, 1.12), xlim=(-0.1, count - 0.55), yticks=[])
    ax.set_xticks(range(count), [heading(a.name) for a in parallel.axes])
    ax.grid(visible=False)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)


def draw_bars(ax: Axes, bars: Sequence[Bar], xlabel: str, *, one: bool = False) -> None:
    """Draw bars with their intervals, the first on top; `one` marks a ratio of 1."""
    heights = list(range(len(bars)))[::-1]
    for y, bar in zip(heights, bars, strict=True):
        (patch,) = ax.barh(y, bar.value, height=0.62, color=SERIES[0], alpha=0.85)
        tip(patch, f"{heading(bar.name)}: {bar.value:.2f} (n={bar.n})")
        end = bar.value
        if bar.low is not None and bar.high is not None:
            ax.plot([bar.low, bar.high], [y, y], color=INK, lw=1.4, marker="|", ms=7)
            end = max(end, bar.high)
        note = (
            f"{bar.value:.2f}" if bar.low is not None or not one else f"{bar.value:.2f} (one pair)"
        )
        ax.annotate(
            note, (end, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8
        )
    ax.set_yticks(heights, [heading(b.name) for b in bars])
    ax.tick_params(axis="y", labelcolor=INK)
    ax.grid(visible=False, axis="y")
    ax.margins(x=0.2)
    ax.set_xlim(left=0)
    if one:
        ax.axvline(1, color=MUTED, lw=1, ls=(0, (3, 3)))
    ax.set_xlabel(xlabel)


def draw_timeline(ax: Axes, spans: Sequence[Span]) -> None:
    """Draw when each trial ran, a band per host, a lane per trial that ran at a time."""
    base = 0.0
    ticks, names = [], []
    for host in dict.fromkeys(s.host for s in spans):
        mine = [s for s in spans if s.host == host]
        lanes = max(s.lane for s in mine) + 1
        for span in mine:
            box = Rectangle(
                (span.begin, base + span.lane + 0.1),
                max(span.end - span.begin, 1e-9),
                0.8,
                facecolor=_STATUS.get(span.status, MUTED),
                alpha=0.75,
                edgecolor=SURFACE,
                lw=0.6,
            )
            ax.add_patch(box)
            length = span.end - span.begin
            tip(box, f"{span.name} {span.label}, {span.status}: {length:,.1f} s on {host}")
        ticks.append(base + lanes / 2)
        names.append(host)
        base += lanes + 0.6
    end = max((s.end for s in spans), default=1.0)
    ax.set(xlim=(0, end * 1.01), ylim=(base, -0.2), xlabel="seconds since the first trial began")
    ax.set_yticks(ticks, names)
    ax.tick_params(axis="y", labelcolor=INK)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}" if end >= 10 else f"{v:g}"))
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.grid(visible=False, axis="y")
    for status in dict.fromkeys(s.status for s in spans):
        ax.plot([], [], "s", color=_STATUS.get(status, MUTED), label=status)
    _legend_below(ax)


def draw_confusion(ax: Axes, confusion: Confusion) -> None:
    """Draw counts as squares, each row's share as strength; right ones green, wrong ones red."""
    share = confusion.counts / np.maximum(confusion.counts.sum(axis=1, keepdims=True), 1)
    n = len(confusion.classes)
    for row in range(n):
        for column in range(n):
            count, part = int(confusion.counts[row, column]), float(share[row, column])
            if not count:
                continue
            right = row == column
            box = Rectangle(
                (column - 0.47, row - 0.47),
                0.94,
                0.94,
                facecolor=GOOD if right else BAD,
                alpha=0.12 + 0.75 * part if right else min(0.08 + 3 * part, 0.9),
                lw=0,
            )
            ax.add_patch(box)
            actual, predicted = confusion.classes[row], confusion.classes[column]
            tip(box, f"{actual} taken for {predicted}: {count} ({100 * part:.1f} %)")
            if n <= 12:
                ax.text(column, row, str(count), ha="center", va="center", fontsize=7.5)
    ax.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5), xlabel="predicted", ylabel="actual")
    ax.set_xticks(range(n), confusion.classes, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(n), confusion.classes)
    ax.grid(visible=False)
    ax.set_aspect("equal")
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)


def _over_epochs(curve: Curve) -> bool:
    return not np.isnan(curve.epochs).all()


def _limit(ax: Axes, top: float, bottom: float) -> float:
    """Limit the accuracy axis, so that one diverged trial does not squeeze all others."""
    low = max(bottom, top - ACCURACY_RANGE)
    pad = 0.06 * max(top - low, 0.5)
    ax.set_ylim(low - pad, top + pad)
    return low - pad


def _plain_log(ax: Axes) -> None:
    """Write 100, not 10^2, and name values in between where the axis spans little."""
    low, high = ax.get_xlim()
    steps = (1, 1.5, 2, 3, 5, 7) if high / low < 30 else (1, 3) if high / low < 1000 else (1,)
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    ticks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    ax.xaxis.set_major_locator(FixedLocator([t for t in ticks if low <= t <= high]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}" if v >= 10 else f"{v:g}"))


def _legend_below(ax: Axes) -> None:
    handles, _ = ax.get_legend_handles_labels()
    if handles:
        columns = 1 if any(len(str(h.get_label())) > 22 for h in handles) else min(len(handles), 3)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=columns)
