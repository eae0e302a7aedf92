"""Shares with their interval, and tables of faults that are what the records say."""

from __future__ import annotations

from pathlib import Path

import pytest

import fault_tables
import shares


def test_wilson_against_published_values() -> None:
    """Newcombe (1998), table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for hits, trials, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert shares.wilson(hits, trials) == pytest.approx((low, high), abs=5e-5)
    assert shares.wilson(0, 0) == (0.0, 1.0)
    assert shares.wilson(12, 12) == pytest.approx((0.7575, 1.0), abs=5e-5)


def test_a_share_is_printed_with_its_interval() -> None:
    assert shares.text(shares.share([True] * 11 + [False])) == "11 of 12 (65% to 99%)"
    assert shares.text(shares.share([])) == "-"


@pytest.mark.parametrize("page", fault_tables.PAGES, ids=lambda page: page.name)
def test_tables_are_those_of_the_records(page: Path) -> None:
    text = page.read_text()
    assert fault_tables.filled(text) == text, "run `python benchmarks/fault_tables.py`"


def test_every_table_stands_on_a_page() -> None:
    shown = [name for page in fault_tables.PAGES for name in _marked(page)]
    assert sorted(shown) == sorted(fault_tables.TABLES)


def _marked(page: Path) -> list[str]:
    return [match[1] for match in fault_tables.MARKED.finditer(page.read_text())]
