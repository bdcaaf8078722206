"""Which figure is held against which, the bar it has to meet, and the table that says so. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Samples = Mapping[tuple[str, str], Sequence[float]]
"""What was measured, by figure and side, one number a repetition."""


@dataclass(frozen=True, slots=True)
class Bar:
    """`figure` of `side`, over that of `base` or by itself where there is none, at least or at most `limit`.

    `ties`: missing the bar counts as a tie while the two sides' ranges overlap. Without a limit the row only informs.
    """

    title: str
    figure: str
    side: str
    base: str = ""
    base_figure: str = ""
    at: Literal["least", "most"] = "least"
    limit: float | None = None
    ties: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row. `ratio` is None where a side is absent, and then `verdict` says so."""

    bar: Bar
    own: tuple[float, ...]
    base: tuple[float, ...]
    ratio: float | None
    verdict: str


def judge(bar: Bar, samples: Samples) -> Outcome:
    own = tuple(samples.get((bar.figure, bar.side), ()))
    base = tuple(samples.get((bar.base_figure or bar.figure, bar.base), ())) if bar.base else ()
    if not own or (bar.base and not base):
        return Outcome(bar, own, base, None, "not measured" if bar.limit is not None else "")
    ratio = statistics.median(own) / (statistics.median(base) if base else 1.0)
    if bar.limit is None:
        return Outcome(bar, own, base, ratio, "")
    if ratio >= bar.limit if bar.at == "least" else ratio <= bar.limit:
        return Outcome(bar, own, base, ratio, "met")
    overlap = bool(base) and max(own) >= min(base) and max(base) >= min(own)
    return Outcome(bar, own, base, ratio, "tie" if bar.ties and overlap else "missed")


HEAD = (
    "| figure | side | median | least | most | beside | median | least | most | ratio | bar | verdict |",
    "|---|---|--:|--:|--:|---|--:|--:|--:|--:|--:|---|",
)


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown, one line a row, for bench/README.md."""
    return "\n".join([*HEAD, *(line(outcome) for outcome in outcomes)])


def line(outcome: Outcome) -> str:
    bar = outcome.bar
    limit = "" if bar.limit is None else f"{'≥' if bar.at == 'least' else '≤'} {bar.limit:g}"
    ratio = "" if outcome.ratio is None or not (bar.base or bar.limit) else f"{outcome.ratio:.2f}"
    beside = bar.base + (f", {bar.base_figure}" if bar.base_figure else "")
    cells = [bar.title, bar.side, *spread(outcome.own), beside, *spread(outcome.base), ratio, limit, outcome.verdict]
    return "| " + " | ".join(cells) + " |"


def spread(values: Sequence[float]) -> list[str]:
    return [number(pick(values)) for pick in (statistics.median, min, max)] if values else ["", "", ""]


def number(value: float) -> str:
    """Three digits that matter, millions as such, and no exponent."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g}M"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
