"""SpecVLM: with all visual tokens the target accepts every token, with a few the captions stay the same."""

from pathlib import Path

import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from sparrow_core.config import DraftConfig, EngineConfig, PrefillConfig
from sparrow_core.decoding.autoregressive import generate_autoregressively
from sparrow_core.decoding.drafter import DraftContext, DraftJob
from sparrow_core.decoding.prefill import prefill
from sparrow_core.decoding.target import TargetModel
from sparrow_core.drafters.specvlm import SpecVLMDrafter, kept_slots
from sparrow_core.engine.engine import Engine
from sparrow_core.targets.reference import model_inputs
from sparrow_core.types import Request, Sampling
from tests.conftest import video_messages

REQUESTS = [Request(video_messages(seed=seed, num_frames=12), max_new_tokens=17) for seed in range(3)]


def test_kept_slots_are_text_the_most_attended_and_an_even_spread() -> None:
    is_text = torch.ones(24, dtype=torch.bool)
    is_text[2:22] = False
    attention = torch.full((24,), 0.025)
    attention[[7, 20]] = 0.2  # 40 % of 0.85 is reached by both
    kept = kept_slots(is_text, attention, 0.2).tolist()
    assert {0, 1, 22, 23, 7, 20} <= set(kept) and len(kept) == 4 + 4
    one, other = sorted(set(kept) - {0, 1, 22, 23, 7, 20})
    assert 2 <= one < 12 <= other < 22
    assert kept_slots(is_text, attention, 1.0).tolist() == list(range(24))
    assert kept_slots(is_text, attention, 0.0).tolist() == [0, 1, 22, 23]
    attention[[7, 20]] = 1.0
    few = set(kept_slots(is_text, attention, 0.1).tolist())
    assert len({7, 20} & few) == 1, "one of them reaches 40 % alone; the other kept slot comes from the spread"


@torch.inference_mode()
def test_attention_is_that_of_transformers(tiny_target: TargetModel, tiny_checkpoint: Path) -> None:
    prompt = tiny_target.build_prompt(REQUESTS[0].messages)
    drafter, cache = SpecVLMDrafter(tiny_target), tiny_target.info.cache_shape.cache(len(prompt.token_ids_S))
    embedded, chunks = tiny_target.embed(prompt), PrefillConfig(chunk_tokens=24)
    context = prefill(tiny_target, prompt, embedded, cache, chunks, drafter.visual_needs)
    reference = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_checkpoint, attn_implementation="eager").eval()
    output = reference(**model_inputs(prompt, reference), output_attentions=True)
    num_behind = int(prompt.is_text_S.flip(0).int().cumprod(0).sum())
    expected = torch.stack(output.attentions)[:, 0, :, -num_behind:].mean((0, 1, 2))
    assert context.visual is not None and 1 < num_behind < len(expected)
    torch.testing.assert_close(drafter.attention(context.visual), expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(("shape", "least"), [(DraftConfig.chain(3), 3), (DraftConfig(3, 3, 9), 1)])
def test_with_all_visual_tokens_every_drafted_token_is_accepted(
    tiny_target: TargetModel, shape: DraftConfig, least: int
) -> None:
    drafter = SpecVLMDrafter(tiny_target, share=1.0)
    with Engine(tiny_target, drafter, EngineConfig(draft=shape, max_model_tokens=512)) as engine:
        completions = [ticket.result() for ticket in [engine.submit(request) for request in REQUESTS]]
    for completion in completions:
        # 16 tokens after the first: four rounds of a chain. A tree keeps its likeliest nodes, which need not be deep.
        assert min(completion.stats.accepted_per_round[:-1]) >= least


@torch.inference_mode()
def test_with_some_visual_tokens_it_drafts_what_transformers_would_write(
    tiny_target: TargetModel, tiny_checkpoint: Path
) -> None:
    """The reference: transformers over the kept slots alone, without a cache."""
    prompt = tiny_target.build_prompt(video_messages(seed=4, num_frames=240))
    drafter, cache = SpecVLMDrafter(tiny_target, share=0.9), tiny_target.info.cache_shape.cache(len(prompt.token_ids_S))
    embedded = tiny_target.embed(prompt)
    context = prefill(tiny_target, prompt, embedded, cache, needs=drafter.visual_needs)
    assert context.visual is not None
    kept = kept_slots(prompt.is_text_S, drafter.attention(context.visual), 0.9)
    assert PrefillConfig().chunk_tokens < len(kept) < len(prompt.token_ids_S), "more than one chunk"
    reference = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_checkpoint).eval()
    expected = [5]
    for _ in range(4):
        written = tiny_target.embed_tokens(torch.tensor(expected))
        positions = torch.arange(len(expected)) + len(prompt.token_ids_S) + embedded.position_offset
        output = reference.model.language_model(
            inputs_embeds=torch.cat([embedded.embeddings_SD[kept], written])[None],
            position_ids=torch.cat([embedded.positions_AS[:, kept], positions.expand(3, -1)], 1)[:, None],
        )
        expected.append(int(reference.lm_head(output.last_hidden_state[0, -1]).argmax()))
    session = drafter.open(context, 16)
    (draft,) = drafter.propose([DraftJob(session, DraftContext(5, 1, 0, Sampling()), DraftConfig.chain(4))])
    assert draft.tokens_N.tolist() == expected


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_with_a_tenth_of_the_visual_tokens_captions_stay_the_same(tiny_target: TargetModel, temperature: float) -> None:
    sampling = Sampling(temperature, seed=5)
    requests = [Request(r.messages, sampling, r.max_new_tokens) for r in REQUESTS]
    drafter = SpecVLMDrafter(tiny_target)
    with Engine(tiny_target, drafter, EngineConfig(draft=DraftConfig(3, 3, 9), max_model_tokens=512)) as engine:
        completions = [ticket.result() for ticket in [engine.submit(request) for request in requests]]
    for request, completion in zip(requests, completions, strict=True):
        prompt = tiny_target.build_prompt(request.messages)
        alone = generate_autoregressively(tiny_target, prompt, sampling, request.max_new_tokens)
        assert completion.token_ids == alone
