"""What every benchmark shares: alternating runs, medians with their spread, one table."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """Seconds of each run of one side."""

    name: str
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def alternate(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, Row]:
    """Run the sides in turn, `rounds` times after one uncounted round, so that a loaded machine hurts all alike."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            seconds = side()
            if number:
                taken[name].append(seconds)
    return {name: Row(name, tuple(seconds)) for name, seconds in taken.items()}


def show(title: str, rows: dict[str, Row], base: str, bars: dict[str, float]) -> None:
    """The table: median, least, most, ratio to `base`, and the bar that the ratio has to meet."""
    print(f"\n{title}\n{'side':<28}{'median s':>10}{'least':>9}{'most':>9}{'ratio':>8}{'bar':>7}  met")
    for name, row in rows.items():
        ratio = row.median / rows[base].median
        bar = bars.get(name)
        met = "" if bar is None else "yes" if ratio <= bar else "MISSED"
        shown = f"{bar:.2f}" if bar is not None else ""
        numbers = f"{row.median:>10.3f}{min(row.seconds):>9.3f}{max(row.seconds):>9.3f}{ratio:>8.2f}"
        print(f"{name:<28}{numbers}{shown:>7}  {met}")
