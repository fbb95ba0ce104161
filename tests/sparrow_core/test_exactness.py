"""Losslessness of sampling, as a statement about distributions: the engine's sequences against enumeration.

Each block has new tables and new seeds, and a chi-square p-value, which must be uniform over blocks. The same test at
the same size must reject a wrong acceptance rule. `SPARROW_EXACTNESS_SEEDS` sets the seeds per block: 120 keeps the
suite quick, the documentation reports 2000.
"""

import os
from collections import Counter

import pytest
import torch
from scipy import stats

from sparrow_core.config import DraftConfig, EngineConfig
from sparrow_core.decoding import verify as verify_module
from sparrow_core.engine.engine import Engine
from sparrow_core.types import Draft, Message, Request, Sampling, Verdict
from tests.sparrow_core.tables import TableDrafter, TableTarget, enumerate_sequences, random_table

VOCAB, LENGTH, BLOCKS = 4, 3, 10
SEEDS = int(os.environ.get("SPARROW_EXACTNESS_SEEDS", "120"))
SHAPES = {"chain": DraftConfig.chain(3), "tree": DraftConfig(depth=3, width=2, total=7)}


def block_statistic(block: int, rule: str, shape: DraftConfig) -> tuple[float, int]:
    """Chi-square and degrees of freedom of one block; sequences expected fewer than 5 times are pooled."""
    table, draft_table = random_table(VOCAB, 16, 2 * block), random_table(VOCAB, 16, 2 * block + 1)
    draft_table = 0.5 * (table + draft_table)
    settings = {"temperature": 0.9, "top_p": 0.95, "top_k": 3, "rule": rule}
    expected = enumerate_sequences(table, LENGTH, Sampling(**settings))
    with Engine(
        TableTarget(table), TableDrafter(draft_table), EngineConfig(draft=shape, max_model_tokens=64)
    ) as engine:
        tickets = [
            engine.submit(Request((Message("user", ()),), Sampling(seed=100_000 * block + seed, **settings), LENGTH))
            for seed in range(SEEDS)
        ]
        counts = Counter(ticket.result(60).token_ids for ticket in tickets)
    assert all(expected[sequence] > 0 for sequence in counts), "an excluded token was committed"
    large = [sequence for sequence, p in expected.items() if p * SEEDS >= 5]
    observed = [counts[sequence] for sequence in large]
    wanted = [expected[sequence] * SEEDS for sequence in large]
    if SEEDS - sum(wanted) > 1e-6:
        observed.append(SEEDS - sum(observed))
        wanted.append(SEEDS - sum(wanted))
    return float(sum((o - w) ** 2 / w for o, w in zip(observed, wanted, strict=True))), len(wanted) - 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rule", ["shared_noise", "rejection"])
def test_p_values_are_uniform(rule: str, shape: str) -> None:
    p_values = [stats.chi2.sf(*block_statistic(block, rule, SHAPES[shape])) for block in range(BLOCKS)]
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3, p_values


@pytest.mark.parametrize("shape", SHAPES)
def test_a_wrong_acceptance_rule_is_rejected(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept every drafted token that the target could have chosen, with the sample size of the test above."""
    right = verify_module.reject

    def wrong(draft: Draft, target_NV: torch.Tensor, uniforms_N2: torch.Tensor) -> Verdict:
        return right(draft, target_NV, torch.stack([0 * uniforms_N2[:, 0], uniforms_N2[:, 1]], dim=1))

    monkeypatch.setattr(verify_module, "reject", wrong)
    statistics = [block_statistic(block, "rejection", SHAPES[shape]) for block in range(BLOCKS)]
    assert stats.chi2.sf(sum(s for s, _ in statistics), sum(d for _, d in statistics)) < 1e-6
