"""The README's tables are those of the committed result files."""

from pathlib import Path

import pytest

from pipeline.report.readme import TABLES, with_tables
from sparrow_core.errors import ConfigError

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "docs" / "results" / "xeon-2-cores"


def test_the_readme_is_up_to_date() -> None:
    text = (ROOT / "README.md").read_text()
    assert with_tables(text, RESULTS) == text, "run `python -m jobs.readme_tables`"
    assert all(f"<!-- table: {name} -->" in text for name in TABLES)


def test_a_wrong_figure_is_replaced_and_the_rest_is_not_touched() -> None:
    right = "| 64 | our one-row loop | 1.00 | 1.00 | 84 | 1.00 | 1.10 | 1.00 | 19.6 |\n"
    text = "before 84\n<!-- table: speed -->\n" + right.replace("84", "99") + "<!-- end -->\nafter 99\n"
    made = with_tables(text, RESULTS)
    assert right in made and "99 |" not in made
    assert made.startswith("before 84\n") and made.endswith("<!-- end -->\nafter 99\n")


def test_an_unknown_table_is_named() -> None:
    with pytest.raises(ConfigError, match="there is no table speeds; there are acceptance-tree"):
        with_tables("<!-- table: speeds -->\n<!-- end -->\n", RESULTS)
