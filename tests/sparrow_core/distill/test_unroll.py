"""The unrolled passes against the drafter's own decoding path, slot by slot."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from sparrow_core.config import DistillConfig, DraftConfig, Sampling
from sparrow_core.decoding.cache import CacheShape
from sparrow_core.decoding.drafter import DraftContext, DraftJob, PromptContext, VisualContext
from sparrow_core.decoding.target import EmbeddedPrompt, SequenceRows
from sparrow_core.distill.batch import collate
from sparrow_core.distill.hidden_states import CapturedWindow, training_example
from sparrow_core.distill.unroll import UnrolledDrafter
from sparrow_core.drafters.fused_network import DrafterSteps
from sparrow_core.drafters.network import Sight
from sparrow_core.drafters.sparrow import SparrowDrafter
from tests.sparrow_core.distill.toys import WIDTH, captured_window, random_example, random_tables, tiny_drafter

# Whole-sequence attention and the cached step sum in another order; float32 with values of order 1.
TOLERANCE = 2e-5


def decoded_chain(model, tables, example, root_slot: int, depth: int) -> torch.Tensor:
    """Outputs [depth + 1, D] of a chain drafted from `root_slot` along the true tokens, by the decoding path."""
    config = model.config
    cache = CacheShape(1, config.num_kv_heads, config.head_dim, torch.device("cpu"), torch.float32).cache(128)
    embeddings = tables.embed_tokens_VD[example.token_ids_E]
    steps = DrafterSteps(model)
    given = (embeddings[1 : root_slot + 2], example.hidden_TD[: root_slot + 1])
    causal = torch.ones(root_slot + 1, root_slot + 1, dtype=torch.bool).tril()
    outputs = [steps.step(*given, torch.arange(root_slot + 1), [SequenceRows(cache, root_slot + 1, causal)])[-1:]]
    cache.commit(list(range(root_slot + 1)))
    for slot in range(root_slot + 1, root_slot + depth + 1):
        given = (embeddings[slot + 1 : slot + 2], outputs[-1])
        outputs.append(steps.step(*given, torch.tensor([slot]), [SequenceRows(cache, 1)]))
    return torch.cat(outputs)


@pytest.mark.parametrize("bridge_norm", [True, False])
@torch.no_grad()
def test_every_pass_equals_decoding_at_every_slot(bridge_norm: bool) -> None:
    model, tables = tiny_drafter(bridge=bridge_norm), random_tables()
    examples = [random_example(1, 4, 9), random_example(2, 3, 5, bridge=0)]
    unrolled = UnrolledDrafter(model, tables, DistillConfig(recursions=3))
    outputs = unrolled.unroll(collate(examples, [False, False]))
    for row, example in enumerate(examples):
        for root_slot in range(len(example.token_ids_E) - 1 - 3):
            chain = decoded_chain(model, tables, example, root_slot, depth=3)
            found = torch.stack([outputs[depth][row, root_slot + depth] for depth in range(4)])
            torch.testing.assert_close(found, chain, atol=TOLERANCE, rtol=TOLERANCE)


@torch.no_grad()
def test_paper_recursion_equals_a_whole_pass_over_its_own_outputs() -> None:
    model, tables, example = tiny_drafter(bridge=False), random_tables(), random_example(3, 3, 6)
    unrolled = UnrolledDrafter(model, tables, DistillConfig(recursions=1, recursion_keys="paper"))
    first, second = unrolled.unroll(collate([example], [False]))
    fed = torch.cat([example.hidden_TD[:1], first[0, :-1]])
    z = model.fuse(tables.embed_tokens_VD[example.token_ids_E[1:]], fed)[None]
    num_slots = z.shape[1]
    causal = torch.ones(1, num_slots, num_slots, dtype=torch.bool).tril()
    expected = model(z, torch.arange(num_slots)[None], causal)
    torch.testing.assert_close(second, expected, atol=TOLERANCE, rtol=TOLERANCE)


@torch.no_grad()
def test_bridge_is_seen_only_where_it_is_shown() -> None:
    model, tables = tiny_drafter(), random_tables()
    unrolled = UnrolledDrafter(model, tables, DistillConfig(recursions=1))
    example = random_example(4, 3, 6)
    other = dataclasses.replace(example, bridge_UD=example.bridge_UD + 1)
    outputs = {
        name: unrolled.unroll(collate([item], [shows]))
        for name, item, shows in [
            ("shown", example, True),
            ("other", other, True),
            ("hidden", example, False),
            ("hidden other", other, False),
        ]
    }
    for depth in range(2):
        assert not torch.allclose(outputs["shown"][depth], outputs["other"][depth], atol=1e-3)
        assert torch.equal(outputs["hidden"][depth], outputs["hidden other"][depth])


@pytest.mark.parametrize("recursion_keys", ["decoding", "paper"])
@torch.no_grad()
def test_neither_padding_nor_neighbours_change_anything(recursion_keys: str) -> None:
    model, tables = tiny_drafter(), random_tables()
    config = DistillConfig(recursions=2, recursion_keys=recursion_keys)  # type: ignore[arg-type]
    unrolled = UnrolledDrafter(model, tables, config)
    examples = [random_example(5, 4, 12, bridge=6), random_example(6, 2, 5, bridge=2)]
    apart = [unrolled(collate([example], [True])) for example in examples]
    for row_tokens in (0, 100):  # side by side, and in one row
        together = unrolled(collate(examples, [True, True], row_tokens=row_tokens))
        torch.testing.assert_close(together.loss, apart[0].loss + apart[1].loss, rtol=1e-5, atol=1e-4)
        assert torch.equal(together.num_learnt_Z, apart[0].num_learnt_Z + apart[1].num_learnt_Z)


def test_only_the_drafter_learns_and_all_of_it() -> None:
    model = tiny_drafter()
    unrolled = UnrolledDrafter(model, random_tables(), DistillConfig(recursions=1))
    unrolled(collate([random_example(7, 3, 8)], [True])).loss.backward()
    assert {name for name, _ in unrolled.named_parameters()} == {f"drafter.{n}" for n, _ in model.named_parameters()}
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_loss_gradient_agrees_with_finite_differences() -> None:
    model = tiny_drafter(bridge=False).double()
    tables = random_tables()
    tables = dataclasses.replace(
        tables, embed_tokens_VD=tables.embed_tokens_VD.double(), lm_head_VD=tables.lm_head_VD.double()
    )
    unrolled = UnrolledDrafter(model, tables, DistillConfig(recursions=2))
    batch = collate([random_example(8, 2, 5)], [False])
    batch = dataclasses.replace(batch, hidden_BED=batch.hidden_BED.double(), fed_BED=batch.fed_BED.double())
    bias = model.fc.bias
    unrolled(batch).loss.backward()
    assert bias.grad is not None
    for entry in (0, 7):
        with torch.no_grad():
            losses = []
            for step in (1e-4, -1e-4):
                bias[entry] += step
                losses.append(unrolled(batch).loss)
                bias[entry] -= step
        # The losses are summed in float32, which limits a difference quotient of step 1e-4 to about 1 %.
        torch.testing.assert_close(bias.grad[entry], (losses[0] - losses[1]) / 2e-4, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("sees", "longest_span"),
    [("bridge", None), ("embeddings", None), ("embeddings", 6), ("embeddings", 3), ("summary", None)],
)
@torch.no_grad()
def test_drafters_that_see_the_video_decode_as_they_train(sees: Sight, longest_span: int | None) -> None:
    """Every pass against drafter sessions that are opened on the prompt and commit the caption's tokens. Training knows
    no position interpolation, so a video longer than `longest_span` gives other outputs."""
    model, tables = tiny_drafter(bridge=sees == "bridge", sees=sees), random_tables()
    model.config = dataclasses.replace(model.config, longest_span=longest_span)
    window = captured_window(9, 4, [8], bridge=6)
    example = training_example(window, 0)
    unrolled = UnrolledDrafter(model, tables, DistillConfig(recursions=2))
    outputs = unrolled.unroll(unrolled.collate([example], [False], [0]))
    drafter = SparrowDrafter(model, TableTarget(tables))
    for accepted in range(1, 5):
        draft_outputs = drafted(drafter, window, accepted, depth=2)
        first_slot = len(window.prompt_ids_T) + accepted - 2
        expected = torch.stack([outputs[depth][0, first_slot + depth] for depth in range(3)])
        is_equal = torch.allclose(draft_outputs, expected, atol=TOLERANCE, rtol=TOLERANCE)
        assert is_equal == (longest_span != 3)


class TableTarget:
    """A target of tables alone, which keeps the inputs of its lm_head and chooses the caption's tokens."""

    def __init__(self, tables) -> None:
        self.tables = tables
        self.given: list[torch.Tensor] = []
        self.answers: list[int] = []
        self.info = SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32)

    def embed_tokens(self, token_ids):
        return self.tables.embed_tokens_VD[token_ids]

    def logits(self, hidden):
        self.given.append(hidden.reshape(-1, hidden.shape[-1]))
        logits = torch.zeros(*hidden.shape[:-1], len(self.tables.lm_head_VD))
        logits[..., self.answers.pop(0)] = 1.0
        return logits


def drafted(drafter: SparrowDrafter, window: CapturedWindow, accepted: int, depth: int) -> torch.Tensor:
    """Outputs at the root and along a drafted chain of the caption's own tokens, behind `accepted` of them."""
    target: TableTarget = drafter.target
    (caption,) = window.captions
    tokens = caption.token_ids_C.tolist()
    slots = torch.arange(int(window.prompt_slots_T[-1]) + 1)
    is_text = torch.isin(slots, window.prompt_slots_T)
    embeddings, taps = torch.zeros(len(slots), WIDTH), torch.zeros(len(slots), WIDTH)
    embeddings[~is_text], taps[~is_text] = window.embeddings_MD, window.bridge_UD
    no_keys = torch.empty(0)
    visual = VisualContext(is_text, EmbeddedPrompt(embeddings, slots[None], 0), no_keys, {2: taps}, {})
    session = drafter.open(PromptContext(window.prompt_ids_T, window.prompt_hidden_TD, visual), 20)
    if accepted > 1:
        session.commit(tokens[: accepted - 1], caption.hidden_CD[: accepted - 1])
    target.given, target.answers = [], tokens[accepted : accepted + depth + 1]
    draft_context = DraftContext(tokens[accepted - 1], accepted, 0, Sampling())
    drafter.propose([DraftJob(session, draft_context, DraftConfig.chain(depth + 1))])
    return torch.cat(target.given)
