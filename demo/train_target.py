"""Train the demo target within a given time, from random weights or from a checkpoint.

First the vision tower alone learns what each visual token shows, then the whole model learns to caption. The run is
saved every three minutes, and the same command resumes an interrupted run.

    python -m demo.train_target --hours 6 --vision-minutes 12 --export demo/weights/target
"""

import argparse
import json
import math
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

from demo.batches import Batch, CaptionBatches, LookBatches
from demo.curriculum import FIRST_STAGES, LATER_STAGES
from demo.fast_vision import speed_up
from demo.labels import LOOKS, STORIES
from demo.model import new_target, save_target
from demo.muon import Muon
from demo.tokenizer import load_tokenizer, train_tokenizer
from sparrow_core.media.patches import PatchSpec, patchify

CHECKPOINT_EVERY_S = 180
LOG_EVERY = 20
RATES = {"vision": 1e-3, "language": 1e-3, "inner vision": 2e-3, "inner language": 2e-3}
JOINT_VISION_RATE = 0.4  # factor on the vision tower's learning rates during the joint training
LABEL_LOSS_WEIGHT = 0.25
WARM_UP_STEPS = 40
SEE_APART_UNTIL = 0.5  # share of the joint training in which the vision tower learns from LOOKS only

CARD = """\
---
library_name: transformers
pipeline_tag: video-text-to-text
---
# A tiny video captioner

Qwen2.5-VL in miniature (`Qwen2_5_VLForConditionalGeneration`, bfloat16), trained from nothing on rendered clips of
moving shapes. It exists to exercise every path of a full-sized checkpoint on a laptop, and knows no other world.

Made by `python -m demo.train_target`: {steps} steps, {hours:.2f} hours in its last phase, {threads} CPU threads.
Measure it with `python -m demo.evaluate_target FOLDER`.
"""


class Trainer:
    """The model, the label heads, the optimisers and the clock of one run."""

    def __init__(self, folder: Path, hours: float, vision_minutes: float, init: Path | None) -> None:
        self.folder, self.total_s, self.vision_s = folder, hours * 3600, vision_minutes * 60
        folder.mkdir(parents=True, exist_ok=True)
        self.stages = LATER_STAGES if init else FIRST_STAGES
        self.see_apart_until = 0.0 if init else SEE_APART_UNTIL
        self.tokenizer = self._tokenizer(init)
        self.model: Any = (
            Qwen2_5_VLForConditionalGeneration.from_pretrained(init, dtype=torch.float32)
            if init
            else new_target(self.tokenizer)
        )
        speed_up(self.model.model.visual)
        width = self.model.lm_head.in_features
        looks = nn.Linear(width, sum(LOOKS.values()))
        stories = nn.Sequential(nn.RMSNorm(width), nn.Linear(width, sum(STORIES.values())))
        self.heads = nn.ModuleDict({"looks": looks, "stories": stories})
        self.optimizers = self._optimizers()
        self.elapsed_s, self.step, self.phase_start = 0.0, 0, 0
        self.progress = multiprocessing.get_context("spawn").Value("d", 0.0)
        self.log = folder / "log.jsonl"
        self._restore()

    def run(self) -> None:
        """Train until the time is up: the vision tower alone, then the whole model."""
        if self.elapsed_s < self.vision_s:
            self._phase(LookBatches(self.step), self._look, until_s=self.vision_s)
            self.optimizers = self._optimizers()
            self.phase_start = self.step
            self._save()
        captions = CaptionBatches(self.folder / "tokenizer", self.progress, self.step, self.stages)
        self._phase(captions, self._caption, until_s=self.total_s)
        self._save()

    def _phase(self, batches: Any, loss_of: Any, until_s: float) -> None:
        loader = DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=4, multiprocessing_context="spawn")
        began, saved = time.monotonic() - self.elapsed_s, time.monotonic()
        means: dict[str, list[float]] = {}
        for batch in loader:
            self._set_rates(until_s)
            losses = loss_of(batch)
            losses["loss"].backward()
            nn.utils.clip_grad_norm_(self._parameters(), 1.0)
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            self.step += 1
            self.elapsed_s = time.monotonic() - began
            for name, value in losses.items():
                means.setdefault(name, []).append(value.item())
            if self.step % LOG_EVERY == 0:
                self._report({name: sum(v) / len(v) for name, v in means.items()})
                means = {}
            if time.monotonic() - saved > CHECKPOINT_EVERY_S:
                self._save()
                saved = time.monotonic()
            if self.elapsed_s >= until_s:
                return

    def _look(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of LOOKS over single frame pairs."""
        losses = self._label_losses(self._features(batch), batch, LOOKS)
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def _caption(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted loss of caption tokens, LOOKS (vision tower) and STORIES (the language model's middle layer)."""
        with torch.set_grad_enabled(self.progress.value >= self.see_apart_until):
            features = self._features(batch)
        states, middle = self._states(batch, features)
        assert batch.extra is not None
        labels = self._label_losses(self._features(batch.extra), batch.extra, LOOKS)
        labels |= self._label_losses(middle, batch, STORIES)
        wanted = batch.weights[:, 1:] > 0
        targets, weights = batch.input_ids[:, 1:][wanted], batch.weights[:, 1:][wanted]
        token_losses = cross_entropy(self.model.lm_head(states[:, :-1][wanted]), targets, reduction="none")
        words = (token_losses * weights).sum() / weights.sum()
        loss = words + LABEL_LOSS_WEIGHT * torch.stack(list(labels.values())).sum()
        return {"loss": loss, "words": words, "facts": token_losses[weights > 0.5].mean(), **labels}

    def _features(self, batch: Batch) -> Tensor:
        """Merged visual tokens of all clips, [B * V, D]."""
        patches, grids = zip(*(patchify(frames, PatchSpec()) for frames in batch.frames), strict=True)
        return self.model.model.visual(
            torch.from_numpy(np.concatenate(patches)), grid_thw=torch.tensor(grids)
        ).pooler_output

    def _label_losses(self, features: Tensor, batch: Batch, fields: dict[str, int]) -> dict[str, Tensor]:
        labels = torch.from_numpy(batch.labels).long().flatten(0, -2)
        labels = labels[:, : len(LOOKS)] if fields is LOOKS else labels[:, len(LOOKS) :]
        logits = self.heads["looks" if fields is LOOKS else "stories"](features).split(list(fields.values()), dim=-1)
        weights = torch.where(labels[:, 2] > 0, 1.0, 0.3)  # most tokens show no object
        weights = weights / weights.sum()
        losses = (cross_entropy(part, labels[:, i], reduction="none") for i, part in enumerate(logits))
        return {name: (loss * weights).sum() for name, loss in zip(fields, losses, strict=True)}

    def _states(self, batch: Batch, features: Tensor) -> tuple[Tensor, Tensor]:
        """Final hidden states [B, S, D], and the visual tokens' after the language model's middle layer [B * V, D]."""
        config, language = self.model.config, self.model.model.language_model
        ids = batch.input_ids
        video = ids == config.video_token_id
        T, h, w = batch.labels.shape[1:4]
        positions, _ = self.model.model.get_rope_index(
            ids,
            mm_token_type_ids=video.int() * 2,
            video_grid_thw=torch.tensor([[T, 2 * h, 2 * w]] * len(ids)),
            second_per_grid_ts=[batch.seconds_per_grid] * len(ids),
        )
        embeddings = language.embed_tokens(ids).masked_scatter(video[..., None], features)
        middle: list[Tensor] = []
        layer = language.layers[len(language.layers) // 2 - 1]
        hook = layer.register_forward_hook(lambda _module, _inputs, output: middle.append(output[video]))
        states = language(inputs_embeds=embeddings, position_ids=positions, use_cache=False).last_hidden_state
        hook.remove()
        return states, middle[0]

    def _tokenizer(self, init: Path | None) -> PreTrainedTokenizerFast:
        home = self.folder / "tokenizer"
        if not home.exists():
            (load_tokenizer(init) if init else train_tokenizer()).save_pretrained(home)
        return load_tokenizer(home)

    def _parameters(self) -> list[nn.Parameter]:
        return [*self.model.parameters(), *self.heads.parameters()]

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the matrices inside the two towers, AdamW for everything else."""
        visual, language = self.model.model.visual, self.model.model.language_model
        seeing = _matrices(visual.blocks, visual.merger)
        talking = _matrices(language.layers)
        inner = {id(weight) for weight in (*seeing, *talking)}
        rest = {
            "vision": [*visual.parameters(), *self.heads.parameters()],
            "language": [*language.parameters(), *self.model.lm_head.parameters()],
        }
        groups = [{"params": [w for w in part if id(w) not in inner], "name": name} for name, part in rest.items()]
        inner_groups = [{"params": seeing, "name": "inner vision"}, {"params": talking, "name": "inner language"}]
        return [
            torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), weight_decay=0.02, fused=True),
            Muon(inner_groups, lr=0.0, weight_decay=0.02),
        ]

    def _set_rates(self, until_s: float) -> None:
        """Warm up, then decay by the clock: to 20 % linearly (vision phase), to 2 % by a cosine (joint training)."""
        joint = self.elapsed_s >= self.vision_s
        start = self.vision_s if joint else 0.0
        done = min((self.elapsed_s - start) / (until_s - start), 1.0)
        self.progress.value = done
        factor = min(1.0, (self.step - self.phase_start + 1) / WARM_UP_STEPS)
        factor *= 0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * done)) if joint else 1 - 0.8 * done
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                settled = JOINT_VISION_RATE if joint and "vision" in group["name"] else 1.0
                group["lr"] = RATES[group["name"]] * factor * settled

    def _report(self, means: dict[str, float]) -> None:
        row = {"step": self.step, "minutes": round(self.elapsed_s / 60, 2), "progress": round(self.progress.value, 4)}
        row |= {name: round(value, 4) for name, value in means.items()}
        print(json.dumps(row), flush=True)
        with self.log.open("a") as log:
            log.write(json.dumps(row) + "\n")

    def _save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "clock": (self.elapsed_s, self.step, self.phase_start),
        }
        partial = self.folder / "checkpoint.partial"
        torch.save(state, partial)
        partial.replace(self.folder / "checkpoint.pt")

    def _restore(self) -> None:
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.elapsed_s, self.step, self.phase_start = state["clock"]
        if self.step > self.phase_start:
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)


def export(trainer: Trainer, folder: Path) -> None:
    """Write the checkpoint folder with a model card."""
    card = CARD.format(steps=trainer.step, hours=trainer.elapsed_s / 3600, threads=torch.get_num_threads())
    save_target(folder, trainer.model, trainer.tokenizer, card)


def _matrices(*modules: nn.Module) -> list[nn.Parameter]:
    return [weight for module in modules for weight in module.parameters() if weight.ndim == 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("out/train_target"), help="checkpoints and the log")
    parser.add_argument("--hours", type=float, default=6.0, help="time to train, vision phase included")
    parser.add_argument("--vision-minutes", type=float, default=12.0, help="time for the vision tower alone")
    parser.add_argument("--init", type=Path, help="start from these weights with a fresh optimiser")
    parser.add_argument("--export", type=Path, help="write the trained model here as a hub folder")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    trainer = Trainer(args.folder, args.hours, args.vision_minutes, args.init)
    trainer.run()
    if args.export:
        export(trainer, args.export)


if __name__ == "__main__":
    main()
