"""What a comparison refuses before hours of training, and what it writes where."""

import json
from pathlib import Path

import pytest

from pipeline.comparison.config import PaperConfig
from pipeline.comparison.plan import MeasureConfig
from pipeline.comparison.run import store_results
from sparrow_core.errors import ConfigError
from sparrow_core.measure.method_rows import method_rows
from sparrow_core.measure.methods import MethodRun
from sparrow_core.types import SpecStats, Timings


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"methods": {"msd": {}}}, "methods are msd; all are compared with sparrow"),
        ({"tuned": {"msd": {}}}, "name msd more than once"),
        ({"ablations": {"prompt_lookup": {}}}, "name prompt_lookup more than once"),
        ({"measure": MeasureConfig(squeezed=("mds",))}, "squeezed names mds; there are sparrow, msd"),
    ],
)
def test_bad_names_are_refused(changes: dict, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        PaperConfig(**{"base": {}, "methods": {"sparrow": {}, "msd": {}}} | changes)


def run(method: str, temperature: float, decode_s: float) -> MethodRun:
    return MethodRun(
        method, 64, temperature, "w", SpecStats(10, 40, 70, (3,) * 10), Timings(decode_s=decode_s),
        autoregressive_s=2.0, equal=True, usable=True, fact_score=1.0,
    )  # fmt: skip


def test_methods_and_ablations_go_into_tables_of_their_own(tmp_path: Path) -> None:
    runs = [run("sparrow", 0.0, 1.0), run("sparrow", 1.0, 0.5), run("another seed", 0.0, 2.0)]
    store_results(tmp_path, {"machine": "m"}, {"sparrow"}, method_rows(runs, "sparrow"))
    written = json.loads((tmp_path / "paper_tables.json").read_text())
    assert written["machine"] == "m"
    assert [(row["method"], row["temperature"], row["decode_speedup"]) for row in written["rows"]] == [
        ("sparrow", 0.0, 2.0), ("sparrow", 1.0, 4.0),
    ]  # fmt: skip
    assert [(row["method"], row["tau"], row["decode_speedup"]) for row in written["ablation"]] == [
        ("another seed", 4.0, 1.0)
    ]
    assert "sparrow" in (tmp_path / "paper_tables.svg").read_text()
