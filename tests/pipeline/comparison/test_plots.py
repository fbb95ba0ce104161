"""Plots: one line per method or learning rate, and the same SVG file for the same results."""

from pathlib import Path

from pipeline.comparison.plots import plot_layers, plot_methods, plot_speed, plot_training

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


def test_the_same_results_give_the_same_file(tmp_path: Path) -> None:
    plot_speed(RESULTS, tmp_path / "one.svg")
    plot_speed(RESULTS, tmp_path / "other.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()


def test_a_comparison_is_drawn_with_its_trainings_and_layers(tmp_path: Path) -> None:
    row = {"tau": 4.0, "decode_speedup": 2.0, "end_to_end_speedup": 1.5}
    training = {"name": "text_only", "tau": 3.0, "curve": [[0, 5.0, [0.1]], [20, 1.0, [0.9]]]}
    results = {
        "rows": [
            {**row, "method": "sparrow", "temperature": t, "visual_tokens": n} for t in (0.0, 1.0) for n in (512, 6000)
        ],
        "training": [
            {**training, "learning_rate": 0.002, "chosen": True},
            {**training, "learning_rate": 0.001, "chosen": False},
        ],
        "layers": [
            {"layer": 1, "fact_score": 0.2, "cosine": 1.0},
            {"layer": 2, "fact_score": 0.9, "cosine": None},
        ],
    }
    drawn = {
        plot_methods: ("sparrow", "T=1"),
        plot_training: ("text_only", "0.002: tau 3.00, chosen"),
        plot_layers: ("share of facts right",),
    }
    for plot, texts in drawn.items():
        plot(results, tmp_path / "plot.svg")
        content = (tmp_path / "plot.svg").read_text()
        assert all(text in content for text in texts)
