"""Runs the paper's layer study over several windows. Resumable.

OUTPUT/layers.jsonl    one line for each window
"""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from pipeline.common.checkpoints import checkpoint_identity
from pipeline.common.journal import Journal
from pipeline.comparison.plan import MeasureConfig, ScoredWindows
from pipeline.drafters.config import DistillRunConfig
from sparrow_core.measure.layers import LayerFinding, study_window
from sparrow_core.targets.loading import load_target
from sparrow_core.targets.reference import load_reference

JOURNAL = "layers.jsonl"


def study_layers(
    config: DistillRunConfig,
    measure: MeasureConfig,
    windows: ScoredWindows,
    output: Path,
    on_window: Callable[[list[LayerFinding]], None],
) -> list[LayerFinding]:
    """Study the first `measure.layer_windows` windows of `measure.layer_length` -> findings of all windows.

    Calls `on_window` with the findings of every window that was studied. Windows that the journal holds are not studied
    again. Raises ConfigError if the journal was written with other settings.
    """
    settings = {
        "target": checkpoint_identity(config.target),
        "dtype": config.dtype,
        "length": measure.layer_length,
        "max_new_tokens": measure.max_new_tokens,
    }
    journal = Journal(output / JOURNAL, settings)
    done = {entry["window"]: [LayerFinding(**fields) for fields in entry["findings"]] for entry in journal.entries}
    if missing := [number for number in range(measure.layer_windows) if number not in done]:
        target = load_target(config.target, device=config.device, dtype=config.dtype)
        info = target.info
        reference = load_reference(config.target, device=info.device, dtype=info.dtype, attention="eager")
        for number in missing:
            prompt = target.build_prompt(windows.request(measure.layer_length, number).messages)
            score = partial(windows.score, measure.layer_length, number)
            done[number] = list(study_window(reference, target, prompt, number, measure.max_new_tokens, score))
            journal.add({"window": number, "findings": [asdict(finding) for finding in done[number]]})
            on_window(done[number])
    return [finding for number in range(measure.layer_windows) for finding in done[number]]
