"""The benchmark's plot: one line per method, written as an SVG that is the same for the same figures."""

from pathlib import Path

from pipeline.report.plots import plot_speed

ROW = {"dtype": "float32", "temperature": 0.0, "decode_speedup": 2.0, "tau": 4.0, "round_cost": 2.0}
RESULTS = {
    "machine": {"processor": "a processor", "device": "cpu"},
    "rows": [
        {**ROW, "method": "chain", "visual_tokens": 64},
        {**ROW, "method": "chain", "visual_tokens": 25_000},
        {**ROW, "method": "generate", "visual_tokens": 64, "tau": None, "round_cost": None},
    ],
}


def test_methods_and_machine_are_named(tmp_path: Path) -> None:
    plot_speed(RESULTS, tmp_path / "speed.svg")
    content = (tmp_path / "speed.svg").read_text()
    assert content.startswith("<?xml") and content.count("<svg") == 1
    for text in ("chain", "generate", "a processor", "decode speedup"):
        assert f"<!-- {text}" in content
