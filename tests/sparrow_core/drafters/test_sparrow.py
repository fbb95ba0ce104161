"""The Sparrow drafter: text anchoring, cached passes against whole sequences, and its artefact."""

import json
from pathlib import Path

import pytest
import torch

from sparrow_core.config import DraftConfig, EngineConfig
from sparrow_core.decoding.autoregressive import generate_autoregressively
from sparrow_core.decoding.drafter import DraftContext, DraftJob, PromptContext
from sparrow_core.decoding.prefill import text_slots
from sparrow_core.decoding.target import TargetModel
from sparrow_core.drafters.anchors import interpolated_positions, shifted_pairs
from sparrow_core.drafters.artefact import load_drafter, save_drafter
from sparrow_core.drafters.network import DrafterConfig, Sight, SparrowDrafterModel
from sparrow_core.drafters.sparrow import SparrowDrafter, SparrowSession
from sparrow_core.engine.engine import Engine
from sparrow_core.errors import CheckpointError, ConfigError
from sparrow_core.targets.fingerprint import weights_fingerprint
from sparrow_core.targets.loading import load_target
from sparrow_core.types import Draft, Message, Request, Sampling
from tests.conftest import video_messages


def new_model(target: TargetModel, *, blind: bool = False) -> SparrowDrafterModel:
    torch.manual_seed(0)
    return SparrowDrafterModel(DrafterConfig.for_target(target.info, blind=blind)).eval()


def test_anchors_for_any_number_of_visual_spans() -> None:
    is_text = torch.tensor([1, 1, 0, 0, 1, 0, 1, 1], dtype=torch.bool)
    assert text_slots(is_text).tolist() == [0, 1, 4, 6, 7]
    token_ids, hidden = shifted_pairs(torch.tensor([10, 11, 12]), torch.tensor([[0.0], [1.0], [2.0]]))
    assert (token_ids.tolist(), hidden.tolist()) == ([11, 12], [[0.0], [1.0]])
    with pytest.raises(ConfigError, match="no text token"):
        text_slots(torch.zeros(3, dtype=torch.bool))


def whole_sequence(
    model: SparrowDrafterModel, target: TargetModel, token_ids: list[int], hidden_TD: torch.Tensor
) -> torch.Tensor:
    """Outputs for tokens that are each fused with the hidden state before them, by the training path."""
    z_TD = model.fuse(target.embed_tokens(torch.tensor(token_ids)), hidden_TD)
    length = len(token_ids)
    causal = torch.ones(1, length, length, dtype=torch.bool).tril()
    return model(z_TD[None], torch.arange(length)[None], causal)[0]


@torch.inference_mode()
def test_rounds_equal_whole_sequences(tiny_target: TargetModel) -> None:
    """Draft, commit a part, draft again: each chain equals one from passes over the whole sequence without a cache."""
    model = new_model(tiny_target)
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(0, 200, (9,), generator=generator)
    truth_SD = torch.randn(40, tiny_target.info.hidden_size, generator=generator)
    drafter = SparrowDrafter(model, tiny_target)
    session = drafter.open(PromptContext(text, truth_SD[:9]), max_new_tokens=30)
    known, root = text.tolist(), 42
    for round_index, num_accepted in enumerate((2, 0, 4, 1)):
        draft_context = DraftContext(root, len(known) - 8, round_index, Sampling())
        (draft,) = drafter.propose([DraftJob(session, draft_context, DraftConfig.chain(4))])
        assert draft.tokens_N.tolist() == [root, *greedy_chain(model, tiny_target, [*known, root], truth_SD, depth=4)]
        path = draft.tokens_N[: num_accepted + 1].tolist()
        session.commit(path, truth_SD[len(known) : len(known) + len(path)])
        known += path
        root = 50 + round_index


def greedy_chain(
    model: SparrowDrafterModel, target: TargetModel, tokens: list[int], truth_SD: torch.Tensor, depth: int
) -> list[int]:
    """Token i + 1 is fused with hidden state i: the target's up to the root, behind it the drafter's own output."""
    hidden = list(truth_SD[: len(tokens) - 1])
    drafted: list[int] = []
    for _ in range(depth):
        output_D = whole_sequence(model, target, [*tokens, *drafted][1:], torch.stack(hidden))[-1]
        hidden.append(output_D)
        drafted.append(int(target.logits(output_D).argmax()))
    return drafted


@torch.no_grad()
def test_the_half_of_the_embeddings_comes_before_that_of_the_hidden_states(tiny_target: TargetModel) -> None:
    """As in released checkpoints: a layer that passes on one half of its input shows which is which."""
    model, size = new_model(tiny_target), tiny_target.info.hidden_size
    embeddings_TD, hidden_TD = torch.randn(2, 5, size).unbind()
    model.fc.bias.zero_()
    for half, expected_TD in ((0, model.input_layernorm(embeddings_TD)), (1, hidden_TD)):
        model.fc.weight.copy_(torch.eye(2 * size)[half * size : (half + 1) * size])
        torch.testing.assert_close(model.fuse(embeddings_TD, hidden_TD), expected_TD)


@torch.inference_mode()
def test_every_pass_reads_the_right_positions_and_hidden_states(
    tiny_target: TargetModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accepted tokens with the target's hidden states, drafted ones with the drafter's outputs, one position apart."""
    truth_SD = torch.randn(20, tiny_target.info.hidden_size)
    drafter = SparrowDrafter(new_model(tiny_target), tiny_target)
    session = drafter.open(PromptContext(torch.arange(9), truth_SD[:9]), max_new_tokens=30)
    step, passes, outputs = drafter._steps.step, [], []

    def recorded(
        embeddings_RD: torch.Tensor, hidden_RD: torch.Tensor, positions_R: torch.Tensor, *more: object
    ) -> torch.Tensor:
        passes.append((positions_R.tolist(), hidden_RD))
        outputs.append(step(embeddings_RD, hidden_RD, positions_R, *more))  # type: ignore[arg-type]
        return outputs[-1]

    monkeypatch.setattr(drafter._steps, "step", recorded)
    (draft,) = drafter.propose([DraftJob(session, DraftContext(42, 1, 0, Sampling()), DraftConfig.chain(4))])
    assert [positions for positions, _ in passes] == [[8], [9], [10], [11]]
    assert torch.equal(passes[0][1], truth_SD[8:9])
    assert all(torch.equal(passes[n][1], outputs[n - 1]) for n in (1, 2, 3))
    passes.clear()
    session.commit(draft.tokens_N[:3].tolist(), truth_SD[9:12])
    drafter.propose([DraftJob(session, DraftContext(50, 4, 1, Sampling()), DraftConfig.chain(2))])
    assert [positions for positions, _ in passes] == [[9, 10, 11], [12]]
    assert torch.equal(passes[0][1], truth_SD[9:12])


@torch.inference_mode()
def test_trees_equal_whole_sequences(tiny_target: TargetModel) -> None:
    """Below every node of a tree stand the best tokens after its own path, whatever its siblings; for two sequences of
    different lengths at once."""
    model, generator = new_model(tiny_target), torch.Generator().manual_seed(2)
    drafter, shape = SparrowDrafter(model, tiny_target), DraftConfig(depth=3, width=3, total=100)  # nothing is left out
    jobs, texts, truths = [], [], []
    for length, root in ((9, 42), (4, 43)):
        texts.append(torch.randint(0, 200, (length,), generator=generator))
        truths.append(torch.randn(length, tiny_target.info.hidden_size, generator=generator))
        session = drafter.open(PromptContext(texts[-1], truths[-1]), max_new_tokens=30)
        jobs.append(DraftJob(session, DraftContext(root, 1, 0, Sampling()), shape))
    for job, draft, text, truth_TD in zip(jobs, drafter.propose(jobs), texts, truths, strict=True):
        tokens, parents = draft.tokens_N.tolist(), draft.parents_N.tolist()
        assert len(tokens) == 1 + 3 + 9 + 9
        path_of: dict[int, list[int]] = {0: []}
        for node in range(1, len(tokens)):
            path_of[node] = [*path_of[parents[node]], tokens[node]]
        for node in sorted(set(parents[1:])):
            states, known = list(truth_TD), [*text.tolist(), job.draft_context.root]
            for depth in range(len(path_of[node]) + 1):
                read = [*known, *path_of[node][:depth]][1:]
                states.append(whole_sequence(model, tiny_target, read, torch.stack(states))[-1])
            best = tiny_target.logits(states[-1]).topk(3).indices.tolist()
            assert [tokens[n] for n, parent in enumerate(parents) if parent == node] == best


def grown(drafter: SparrowDrafter, session: SparrowSession, shape: DraftConfig, sampling: Sampling) -> Draft:
    return drafter.propose([DraftJob(session, DraftContext(3, 1, 0, sampling), shape)])[0]


@torch.inference_mode()
@pytest.mark.parametrize("rule", ["shared_noise", "rejection"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_trees_are_well_formed(tiny_target: TargetModel, rule: str, temperature: float) -> None:
    drafter = SparrowDrafter(new_model(tiny_target), tiny_target)
    context = PromptContext(torch.arange(5), torch.randn(5, tiny_target.info.hidden_size))
    sampling = Sampling(temperature, rule=rule)  # type: ignore[arg-type]
    draft = grown(drafter, drafter.open(context, 10), DraftConfig(5, 8, 25), sampling)
    parents = draft.parents_N.tolist()
    assert len(draft) <= 25 and parents[0] == -1
    assert all(0 <= parent < node for node, parent in enumerate(parents) if node)
    siblings = list(zip(parents[1:], draft.tokens_N.tolist()[1:], strict=True))
    assert len(set(siblings)) == len(siblings), "the same token twice below one parent"


@torch.inference_mode()
def test_a_blind_drafter_ignores_hidden_states(tiny_target: TargetModel) -> None:
    drafter = SparrowDrafter(new_model(tiny_target, blind=True), tiny_target)
    drafts = [
        grown(drafter, drafter.open(context, 10), DraftConfig.chain(4), Sampling())
        for context in (PromptContext(torch.arange(5), torch.randn(5, 64) * scale) for scale in (1.0, 100.0))
    ]
    assert torch.equal(drafts[0].tokens_N, drafts[1].tokens_N)


def test_checkpoint_round_trip_and_names(tiny_target: TargetModel, tmp_path: Path) -> None:
    model = new_model(tiny_target)
    save_drafter(tmp_path, model, "# A drafter\n")
    loaded = load_drafter(str(tmp_path), tiny_target).model
    assert loaded.config == model.config
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight.bfloat16().float()), name
    assert {"input_layernorm.weight", "fc.weight", "layers.0.self_attn.q_proj.weight"} <= set(model.state_dict())


def test_drafter_of_another_target_is_refused(tiny_target: TargetModel, other_checkpoint: Path, tmp_path: Path) -> None:
    save_drafter(tmp_path, new_model(tiny_target), "")
    other = load_target(str(other_checkpoint), device="cpu")
    with pytest.raises(CheckpointError, match=f"{tiny_target.info.fingerprint}.*{other.info.fingerprint}"):
        load_drafter(str(tmp_path), other)


def test_broken_drafter_folders_are_named(tiny_target: TargetModel, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_drafter(str(tmp_path), tiny_target)
    save_drafter(tmp_path, new_model(tiny_target), "")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 7}))
    with pytest.raises(CheckpointError, match="do not fit"):
        load_drafter(str(tmp_path), tiny_target)
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    with pytest.raises(CheckpointError, match="'llama'"):
        load_drafter(str(tmp_path), tiny_target)


@pytest.mark.parametrize("sees", ["bridge", "embeddings", "summary"])
def test_a_drafter_that_sees_the_video_serves_prompts_without_one(tiny_target: TargetModel, sees: Sight) -> None:
    torch.manual_seed(0)
    config = DrafterConfig.for_target(tiny_target.info, sees=sees)
    drafter = SparrowDrafter(SparrowDrafterModel(config), tiny_target)
    text = Request((Message("user", ("What do you see?",)),), max_new_tokens=6)
    video = Request(video_messages(seed=1), max_new_tokens=6)
    with Engine(tiny_target, drafter, EngineConfig(draft=DraftConfig(2, 2, 5), max_model_tokens=256)) as engine:
        found = [ticket.result() for ticket in [engine.submit(request) for request in (text, video, text)]]
    for request, completion in zip((text, video, text), found, strict=True):
        alone = generate_autoregressively(tiny_target, tiny_target.build_prompt(request.messages), Sampling(), 6)
        assert completion.token_ids == alone


@torch.no_grad()
def test_a_summary_is_attention_by_two_learned_queries(tiny_target: TargetModel) -> None:
    torch.manual_seed(0)
    summary = SparrowDrafterModel(DrafterConfig.for_target(tiny_target.info, sees="summary")).summary
    assert summary is not None
    size, heads = summary.queries.shape[1], summary.num_heads
    embeddings_MD = torch.randn(7, size)
    x_MD = embeddings_MD / embeddings_MD.pow(2).mean(-1, keepdim=True).sqrt()
    keys_MHd, values_MHd = (layer(x_MD).view(7, heads, -1) for layer in (summary.k_proj, summary.v_proj))
    found = []
    for query_D in summary.queries:
        parts = []
        for head, query_d in enumerate(query_D.view(heads, -1)):
            share_M = (keys_MHd[:, head] @ query_d / (size // heads) ** 0.5).softmax(0)
            parts.append(share_M @ values_MHd[:, head])
        found.append(summary.o_proj(torch.cat(parts)))
    padded_BMD = torch.cat([embeddings_MD, torch.randn(2, size)])[None]
    seen = summary(padded_BMD, torch.arange(9)[None] < 7)
    torch.testing.assert_close(seen.z_BMD[0, 0], found[0], atol=1e-5, rtol=1e-4)
    assert seen.added_B1D is not None
    torch.testing.assert_close(seen.added_B1D[0, 0], summary.to_text(found[1]), atol=1e-5, rtol=1e-4)
    nothing = summary(padded_BMD, torch.zeros(1, 9, dtype=torch.bool))
    assert not nothing.present_BM.any() and not nothing.z_BMD.any() and not nothing.added_B1D.any()


def test_fingerprints_reach_the_end_of_large_weights() -> None:
    # 3,584 x 18,944: the MLP of a 7B, more values than float32 counts one by one.
    layer = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(3584 * 18944, dtype=torch.bfloat16))])
    before = weights_fingerprint(layer)
    with torch.no_grad():
        layer[0][-1] = 1.0
    assert weights_fingerprint(layer) != before


def test_position_interpolation_shortens_long_spans_alone() -> None:
    is_text = torch.tensor([True, False, False, False, False, True, True, False, False, True])
    assert interpolated_positions(is_text, 2).tolist() == [0, 1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8]
    assert interpolated_positions(is_text, 4).tolist() == list(range(11))
