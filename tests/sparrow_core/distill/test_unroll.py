"""The unrolled passes against the drafter's own decoding path, slot by slot."""

import dataclasses

import pytest
import torch

from sparrow_core.config import DistillConfig
from sparrow_core.decoding.cache import CacheShape
from sparrow_core.decoding.target import SequenceRows
from sparrow_core.distill.states import collate
from sparrow_core.distill.unroll import UnrolledDrafter
from sparrow_core.models.drafter_steps import DrafterSteps
from tests.sparrow_core.distill.toys import random_tables, random_window, tiny_drafter

# Whole-sequence attention and the cached step sum in another order; float32 with values of order 1.
TOLERANCE = 2e-5


def decoded_chain(model, tables, window, root_slot: int, depth: int) -> torch.Tensor:
    """Outputs [depth + 1, D] of a chain drafted from `root_slot` along the true tokens, by the decoding path."""
    config = model.config
    cache = CacheShape(1, config.num_kv_heads, config.head_dim, torch.device("cpu"), torch.float32).cache(128)
    embeddings = tables.embed_tokens_VD[window.token_ids_L]
    steps = DrafterSteps(model)
    given = (embeddings[1 : root_slot + 2], window.states_LD[: root_slot + 1])
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
    windows = [random_window(1, 4, 9), random_window(2, 3, 5, bridge=0)]
    unrolled = UnrolledDrafter(model, tables, DistillConfig(recursions=3))
    outputs = unrolled.unroll(collate(windows), torch.tensor([False, False]))
    for row, window in enumerate(windows):
        for root_slot in range(len(window.token_ids_L) - 1 - 3):
            chain = decoded_chain(model, tables, window, root_slot, depth=3)
            found = torch.stack([outputs[depth][row, root_slot + depth] for depth in range(4)])
            torch.testing.assert_close(found, chain, atol=TOLERANCE, rtol=TOLERANCE)


@torch.no_grad()
def test_paper_recursion_equals_a_whole_pass_over_its_own_states() -> None:
    model, tables, window = tiny_drafter(bridge=False), random_tables(), random_window(3, 3, 6)
    unrolled = UnrolledDrafter(model, tables, DistillConfig(recursions=1, recursion_keys="paper"))
    first, second = unrolled.unroll(collate([window]), torch.tensor([False]))
    fed = torch.cat([window.states_LD[:1], first[0, :-1]])
    z = model.fuse(tables.embed_tokens_VD[window.token_ids_L[1:]], fed)[None]
    num_slots = z.shape[1]
    causal = torch.ones(1, num_slots, num_slots, dtype=torch.bool).tril()
    expected = model(z, torch.arange(num_slots)[None], causal)
    torch.testing.assert_close(second, expected, atol=TOLERANCE, rtol=TOLERANCE)


@torch.no_grad()
def test_bridge_is_seen_only_where_it_is_shown() -> None:
    model, tables = tiny_drafter(), random_tables()
    unrolled = UnrolledDrafter(model, tables, DistillConfig(recursions=1))
    window = random_window(4, 3, 6)
    other = dataclasses.replace(window, bridge_MD=window.bridge_MD + 1)
    shown, hidden = torch.tensor([True]), torch.tensor([False])
    outputs = {
        name: unrolled.unroll(collate([item]), shows)
        for name, item, shows in [
            ("shown", window, shown),
            ("other", other, shown),
            ("hidden", window, hidden),
            ("hidden other", other, hidden),
        ]
    }
    for depth in range(2):
        assert not torch.allclose(outputs["shown"][depth], outputs["other"][depth], atol=1e-3)
        assert torch.equal(outputs["hidden"][depth], outputs["hidden other"][depth])


@pytest.mark.parametrize("recursion_keys", ["decoding", "paper"])
@torch.no_grad()
def test_padding_changes_nothing(recursion_keys: str) -> None:
    model, tables = tiny_drafter(), random_tables()
    config = DistillConfig(recursions=2, recursion_keys=recursion_keys)  # type: ignore[arg-type]
    unrolled = UnrolledDrafter(model, tables, config)
    windows = [random_window(5, 4, 12, bridge=6), random_window(6, 2, 5, bridge=2)]
    together = unrolled(collate(windows), torch.tensor([True, True]))
    apart = [unrolled(collate([window]), torch.tensor([True])) for window in windows]
    torch.testing.assert_close(together.loss, apart[0].loss + apart[1].loss, rtol=1e-5, atol=1e-4)
    assert torch.equal(together.num_learnt_P, apart[0].num_learnt_P + apart[1].num_learnt_P)


def test_only_the_drafter_learns_and_all_of_it() -> None:
    model = tiny_drafter()
    unrolled = UnrolledDrafter(model, random_tables(), DistillConfig(recursions=1))
    unrolled(collate([random_window(7, 3, 8)]), torch.tensor([True])).loss.backward()
    assert {name for name, _ in unrolled.named_parameters()} == {f"drafter.{n}" for n, _ in model.named_parameters()}
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_loss_gradient_agrees_with_finite_differences() -> None:
    model = tiny_drafter(bridge=False).double()
    tables = random_tables()
    tables = dataclasses.replace(
        tables, embed_tokens_VD=tables.embed_tokens_VD.double(), lm_head_VD=tables.lm_head_VD.double()
    )
    unrolled = UnrolledDrafter(model, tables, DistillConfig(recursions=2))
    batch = collate([random_window(8, 2, 5)])
    batch = dataclasses.replace(batch, states_BLD=batch.states_BLD.double())
    bias = model.fc.bias
    unrolled(batch, torch.tensor([False])).loss.backward()
    assert bias.grad is not None
    for entry in (0, 7):
        with torch.no_grad():
            losses = []
            for step in (1e-4, -1e-4):
                bias[entry] += step
                losses.append(unrolled(batch, torch.tensor([False])).loss)
                bias[entry] -= step
        # The losses are summed in float32, which limits a difference quotient of step 1e-4 to about 1 %.
        torch.testing.assert_close(bias.grad[entry], (losses[0] - losses[1]) / 2e-4, rtol=2e-2, atol=2e-2)
