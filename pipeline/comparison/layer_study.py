"""The paper's layer study over several windows. Resumable.

OUTPUT/layers.jsonl    one line for each window
"""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from pipeline.common.checkpoints import checkpoint_identity
from pipeline.common.journal import Journal
from pipeline.comparison.measurement import MeasureConfig, ScoredWindows
from pipeline.drafters.config import DistillRunConfig
from sparrow_core.measure.layers import LayerFinding, study_window
from sparrow_core.targets.loading import load_target
from sparrow_core.targets.reference import load_reference

JOURNAL = "layers.jsonl"


def study_layers(
    config: DistillRunConfig,
    plan: MeasureConfig,
    windows: ScoredWindows,
    output: Path,
    on_window: Callable[[list[LayerFinding]], None],
) -> list[LayerFinding]:
    """The layer study on the first windows of its length; those that its journal holds are not done again. Raises
    ConfigError where that was written with other settings."""
    settings = {
        "target": checkpoint_identity(config.target),
        "dtype": config.dtype,
        "length": plan.layer_length,
        "max_new_tokens": plan.max_new_tokens,
    }
    journal = Journal(output / JOURNAL, settings)
    done = {entry["window"]: [LayerFinding(**fields) for fields in entry["findings"]] for entry in journal.entries}
    if missing := [number for number in range(plan.layer_windows) if number not in done]:
        target = load_target(config.target, device=config.device, dtype=config.dtype)
        info = target.info
        reference = load_reference(config.target, device=info.device, dtype=info.dtype, attention="eager")
        for number in missing:
            prompt = target.build_prompt(windows.request(plan.layer_length, number).messages)
            score = partial(windows.score, plan.layer_length, number)
            done[number] = list(study_window(reference, target, prompt, number, plan.max_new_tokens, score))
            journal.add({"window": number, "findings": [asdict(finding) for finding in done[number]]})
            on_window(done[number])
    return [finding for number in range(plan.layer_windows) for finding in done[number]]
