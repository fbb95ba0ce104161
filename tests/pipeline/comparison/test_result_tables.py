"""The tables of README and docs are those of the committed result files."""

from pathlib import Path

import pytest

from jobs.result_tables import PAGES
from pipeline.comparison.result_tables import TABLES, with_tables
from sparrow_core.errors import ConfigError

RESULTS = Path(__file__).parents[3] / "docs" / "results"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_pages_are_up_to_date(page: Path) -> None:
    text = page.read_text()
    assert "<!-- table: " in text
    assert with_tables(text, RESULTS) == text, "run `python -m jobs.result_tables`"


def test_every_table_is_shown() -> None:
    texts = [page.read_text() for page in PAGES]
    assert [name for name in TABLES if not any(f"<!-- table: {name} -->" in text for text in texts)] == []


def test_a_wrong_figure_is_replaced_and_the_rest_is_not_touched() -> None:
    right = "| 64 | our autoregressive loop | 1.00 | 1.00 | 125 | 1.00 | 1.18 | 1.00 | 15.3 |\n"
    text = "before 125\n<!-- table: speed -->\n" + right.replace("125", "4321") + "<!-- end -->\nafter 4321\n"
    updated = with_tables(text, RESULTS)
    assert right in updated and "| 4321 |" not in updated
    assert updated.startswith("before 125\n") and updated.endswith("<!-- end -->\nafter 4321\n")


def test_an_unknown_table_is_named() -> None:
    with pytest.raises(ConfigError, match="there is no table speeds; there are headline"):
        with_tables("<!-- table: speeds -->\n<!-- end -->\n", RESULTS)
