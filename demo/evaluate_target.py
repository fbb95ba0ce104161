"""Fact accuracy of a target's captions of held-out videos, by visual length.

Greedy captions from transformers' own `generate`, on clips that went through a real H.264 encoder and decoder.

    python -m demo.evaluate_target demo/weights/target --lengths 64 512 1500 6000 --scenes 48
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

from demo.batches import prompt_ids
from demo.curriculum import CLIP_SHAPES
from demo.tokenizer import load_tokenizer
from demo.world import MAIN_FACTS, Difficulty, Scene, caption_of, chance, make_scene, mean_scores, render, score
from demo.world.video import through_codec
from sparrow_core.media.patches import PatchSpec, patchify

MAX_NEW_TOKENS = 256
TOKENS_AT_ONCE = 4096  # visual tokens in one call of `generate`
FPS = 2.0


def caption_clips(model: Any, tokenizer: PreTrainedTokenizerFast, clips: list[np.ndarray]) -> list[str]:
    """Greedy captions of clips, uint8 [T, H, W, 3], which all have the same shape and are sampled at FPS."""
    patches, grids = zip(*(patchify(clip, PatchSpec()) for clip in clips), strict=True)
    t, h, w = grids[0]
    ids = torch.tensor([prompt_ids(tokenizer, t * h * w // 4)] * len(clips))
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values_videos=torch.from_numpy(np.concatenate(patches)),
        video_grid_thw=torch.tensor(grids),
        second_per_grid_ts=[2 / FPS] * len(clips),
        mm_token_type_ids=(ids == model.config.video_token_id).int() * 2,
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]),
    )
    return tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)


def heldout_scenes(length: int, count: int, split: str = "heldout", max_objects: int = 4) -> list[Scene]:
    """Scenes of the given visual length, in the first of its clip shapes."""
    width, height, frames = CLIP_SHAPES[length][0]
    difficulty = Difficulty(width, height, frames, FPS, max_objects=max_objects)
    return [make_scene(seed, split, difficulty) for seed in range(count)]


def evaluate(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    scenes: list[Scene],
    blank: bool = False,
) -> tuple[dict[str, float], list[str]]:
    """Mean fact accuracy over scenes of one clip shape, and the captions. `blank` shows gray frames instead."""
    captions: list[str] = []
    step = max(1, min(16, TOKENS_AT_ONCE // scenes[0].difficulty.num_visual_tokens))
    for start in range(0, len(scenes), step):
        clips = [through_codec(render(scene)[0], FPS, crf=18) for scene in scenes[start : start + step]]
        captions += caption_clips(model, tokenizer, [np.full_like(clip, 128) if blank else clip for clip in clips])
    return mean_scores(score(text, scene) for text, scene in zip(captions, scenes, strict=True)), captions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="hub folder of the target")
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 512, 1500, 6000], choices=list(CLIP_SHAPES))
    parser.add_argument("--scenes", type=int, default=48, help="held-out scenes per visual length")
    parser.add_argument("--show", type=int, default=0, help="print this many captions beside the true ones")
    parser.add_argument("--json", type=Path, help="write the table here")
    args = parser.parse_args()
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(args.model, dtype=torch.float32).eval()
    tokenizer = load_tokenizer(args.model)
    table: dict[str, dict[str, float]] = {}
    for length in args.lengths:
        scenes = heldout_scenes(length, args.scenes)
        table[str(length)], captions = evaluate(model, tokenizer, scenes)
        _print_row(str(length), table[str(length)])
        for text, scene in zip(captions[: args.show], scenes, strict=False):
            print(f"  said: {text}\n  true: {caption_of(scene)}")
        if length == args.lengths[0]:
            table["another scene's video"] = chance(captions, scenes)
            table["blank video"], _ = evaluate(model, tokenizer, scenes, blank=True)
            table["chance"] = chance([caption_of(scene) for scene in scenes], scenes)
            for name in ("another scene's video", "blank video", "chance"):
                _print_row(name, table[name])
    if args.json:
        args.json.write_text(json.dumps(table, indent=2) + "\n")


def _print_row(name: str, means: dict[str, float]) -> None:
    order = [*MAIN_FACTS, *(key for key in means if key not in MAIN_FACTS)]
    print(f"{name:>22} " + " ".join(f"{key} {means[key]:.3f}" for key in order if key in means), flush=True)


if __name__ == "__main__":
    main()
