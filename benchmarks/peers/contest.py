"""Engines that take turns, and what came of it."""

import statistics
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.table import Table

# Tokens of the prompt whose reading is measured, and of the prompts before a decode.
PROMPT = 512
CONTEXT = 128


class Contestant(Protocol):
    """An engine that is asked for rates in tokens per second."""

    def prefill(self) -> float:
        """Of one prompt of PROMPT tokens."""

    def decode(self, num_sequences: int) -> float:
        """Of all sequences together, from prompts of CONTEXT tokens on."""


@dataclass(frozen=True)
class Entry:
    """A contestant that can be started, or why not. The block's end stops it."""

    name: str
    # This project's, or a peer's.
    is_ours: bool
    start: AbstractContextManager[Contestant]


# By contestant and column, one rate for each round.
Rates = dict[str, dict[str, list[float]]]


def run_rounds(
    contestants: Mapping[str, Contestant], clients: Sequence[int], num_rounds: int
) -> Rates:
    """Every engine does everything once a round; a first round is not counted."""
    rates: Rates = {name: {} for name in contestants}
    for number in range(num_rounds + 1):
        for count in (0, *clients):
            column = f"decode {count}" if count else f"prefill {PROMPT}"
            for name, contestant in contestants.items():
                rate = contestant.decode(count) if count else contestant.prefill()
                if number:
                    rates[name].setdefault(column, []).append(rate)
    return rates


def show(
    rates: Rates, ours: Sequence[str], missing: Mapping[str, str], title: str, console: Console
) -> None:
    """Medians; for ours, in brackets, the median over the rounds of the ratio to the best peer."""
    table = Table(title=title, title_justify="left")
    columns = list(next(iter(rates.values()))) if rates else []
    for heading in ("engine", *columns):
        table.add_column(heading, justify="left" if heading == "engine" else "right")
    for name, measured in rates.items():
        cells = [f"{statistics.median(measured[column]):.1f}" for column in columns]
        if name in ours:
            ratios = [_best_ratio(rates, ours, name, column) for column in columns]
            cells = [f"{cell}{ratio}" for cell, ratio in zip(cells, ratios, strict=True)]
        table.add_row(name, *cells)
    for name, reason in missing.items():
        table.add_row(name, f"not measured: {reason}"[:100])
    console.print(table)


def _best_ratio(rates: Rates, ours: Sequence[str], name: str, column: str) -> str:
    """In every round against the peer whose median is the best in this column."""
    peers = [peer for peer in rates if peer not in ours]
    if not peers:
        return ""
    best = max(peers, key=lambda peer: statistics.median(rates[peer][column]))
    pairs = zip(rates[name][column], rates[best][column], strict=True)
    return f" ({statistics.median(own / other for own, other in pairs):.2f})"
