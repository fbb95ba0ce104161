"""A target and a drafter that are lookup tables, so that the distribution of whole sequences can be enumerated.

The next token depends on the last one and on its position, so that every node of a tree has a distribution of its own.
Tests run them through the real engine, rounds, tree growth and verification.
"""

import itertools
from collections.abc import Generator, Sequence

import torch

from sparrow_core.decoding.drafter import DraftJob, PromptContext
from sparrow_core.decoding.sampling import probabilities
from sparrow_core.decoding.target import EmbeddedPrompt, Prompt, SequenceRows, TargetInfo, TargetModel, TargetPass
from sparrow_core.drafters.tree_growth import Level, grow_drafts
from sparrow_core.types import Draft, Message, Sampling

CPU = torch.device("cpu")


def random_table(vocab: int, length: int, seed: int) -> torch.Tensor:
    """Logits [position, token, next token]."""
    return torch.randn(length, vocab, vocab, generator=torch.Generator().manual_seed(seed)) * 1.2


class TableTarget(TargetModel):
    """A `TargetModel` whose hidden state is (token, position) and whose logits are a row of the table."""

    def __init__(self, table: torch.Tensor) -> None:
        self.table = table
        vocab = table.shape[1]
        self.info = TargetInfo(
            "table", "f", "t", 1, 1, 2, 1, 1, 1, 1, vocab, 1e-6, 1e4, frozenset(), CPU, torch.float32
        )

    def build_prompt(self, messages: tuple[Message, ...]) -> Prompt:
        return Prompt(torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.bool), ())

    def embed_by_frames(self, prompt: Prompt) -> Generator[None, None, EmbeddedPrompt]:
        yield
        return EmbeddedPrompt(torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.int64), 0)

    def embed_tokens(self, token_ids: torch.Tensor) -> torch.Tensor:
        return token_ids[..., None].float()

    def forward_by_layer(
        self,
        embeddings_RD: torch.Tensor,
        positions_AR: torch.Tensor,
        sequences: Sequence[SequenceRows],
        tap_layers: tuple[int, ...] = (),
    ) -> Generator[None, None, TargetPass]:
        for sequence in sequences:
            sequence.cache.extend(sequence.num_rows)
        yield
        return TargetPass(torch.cat([embeddings_RD, positions_AR.T.float()], dim=1), {})

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        token, position = hidden.long().unbind(-1)
        return self.table[position % len(self.table), token]

    def decode_text(self, token_ids: tuple[int, ...]) -> str:
        return " ".join(map(str, token_ids))


class TableDrafter:
    """Drafts from its own table through the shared tree growth."""

    name = "table"
    visual_needs = None

    def __init__(self, table: torch.Tensor) -> None:
        self.table = table

    def open(self, context: PromptContext, max_new_tokens: int) -> "TableDrafter":
        return self

    def propose(self, jobs: Sequence[DraftJob["TableDrafter"]]) -> list[Draft]:
        depths: list[dict[int, int]] = [{0: 0} for _ in jobs]

        def after(number: int, level: Level) -> torch.Tensor:
            depth, first = depths[number], jobs[number].draft_context.position
            depth.update({node: depth[parent] + 1 for node, parent in zip(level.nodes, level.parents, strict=True)})
            return self.table[[first + depth[node] for node in level.nodes], level.tokens]

        def expand(levels: dict[int, Level]) -> dict[int, torch.Tensor]:
            return {number: after(number, level) for number, level in levels.items()}

        return grow_drafts(
            [
                (self.table[job.draft_context.position, job.draft_context.root], job.draft_context, job.shape)
                for job in jobs
            ],
            expand,
        )

    def commit(self, token_ids: Sequence[int], hidden_RD: torch.Tensor) -> None:
        pass


def enumerate_sequences(table: torch.Tensor, length: int, sampling: Sampling) -> dict[tuple[int, ...], float]:
    """Exact probability of every sequence of `length` tokens, from the table alone."""
    vocab = table.shape[1]
    after = [probabilities(table[position], sampling) for position in range(length)]
    result = {}
    for sequence in itertools.product(range(vocab), repeat=length):
        probability, last = 1.0, 0
        for position, token in enumerate(sequence):
            probability *= float(after[position][last, token])
            last = token
        result[sequence] = probability
    return result
