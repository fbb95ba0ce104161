"""Batch invariance, on which losslessness rests: a row's logits are the same to the last bit alone and among others.

On the demo target, whose matrices have sizes for which libraries choose their usual kernels. Bit equality of matrix
products is a property of these libraries: if this fails, look at the sizes in `decoding/padding.py` and
`decoding/attention.py`.
"""

import random

import pytest
import torch

from demo.windows import DemoWindows
from sparrow_core.decoding.cache import KVCache
from sparrow_core.decoding.prefill import prefill
from sparrow_core.decoding.target import EmbeddedPrompt, Prompt, SequenceRows, TargetModel
from sparrow_core.decoding.tree import ancestors, depths
from sparrow_core.targets.loading import load_target

pytestmark = pytest.mark.slow

Tree = tuple[list[int], list[int], list[int]]  # tokens, parents, a path from the root


class Sequence:
    """A prompt in a cache of its own."""

    def __init__(self, target: TargetModel, prompt: Prompt, embedded: EmbeddedPrompt, room: int) -> None:
        self.target, self.offset = target, embedded.position_offset
        self.cache: KVCache = target.info.cache_shape.cache(prompt.token_ids_S.numel() + room)
        prefill(target, prompt, embedded, self.cache)

    def rows(self, tree: Tree) -> tuple[torch.Tensor, torch.Tensor, SequenceRows]:
        """Token ids and positions of a tree's nodes, and its rows in a pass."""
        tokens, parents = torch.tensor(tree[0]), torch.tensor(tree[1])
        visible_NN = None if len(tokens) == 1 else ancestors(parents)
        positions = depths(parents) + self.cache.length + self.offset
        return tokens, positions, SequenceRows(self.cache, len(tokens), visible_NN)


def logits_of(target: TargetModel, *passing: tuple[torch.Tensor, torch.Tensor, SequenceRows]) -> list[torch.Tensor]:
    """One pass over the rows of several sequences -> the logits of each."""
    tokens, positions, rows = zip(*passing, strict=True)
    positions_AR = torch.cat(positions).expand(target.info.position_axes, -1)
    hidden_RD = target.forward(target.embed_tokens(torch.cat(tokens)), positions_AR, rows).hidden_RD
    return list(target.logits(hidden_RD).split([len(t) for t in tokens]))


def random_tree(right: list[int], vocab_size: int, rng: random.Random) -> Tree:
    """A tree that holds the tokens `right` on a path from its root."""
    tokens, parents, path = [right[0]], [-1], [0]
    while len(path) < len(right) or rng.random() < 0.7:
        if len(path) < len(right) and rng.random() < 0.4:
            parents.append(path[-1])
            path.append(len(tokens))
            tokens.append(right[len(path) - 1])
        else:
            parents.append(rng.randrange(len(tokens)))
            tokens.append(rng.randrange(vocab_size))
    return tokens, parents, path


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    # Blocks have 128 generated slots or 1,024 slots of the prompt: these lengths cross the boundaries of both.
    ("dtype", "length", "num_tokens"), [("float32", 64, 270), ("float32", 1500, 60), ("bfloat16", 64, 20)],
)  # fmt: skip
@torch.inference_mode()
def test_logits_and_cache_do_not_depend_on_the_company(dtype: str, length: int, num_tokens: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    rng = random.Random(length)
    target = load_target("demo/weights/target", device="cpu", dtype=dtype)
    vocab_size = target.info.vocab_size
    prompt = target.build_prompt(DemoWindows("heldout", (length,), 3).request(0, 1).messages)
    embedded = target.embed(prompt)
    other_prompt = target.build_prompt(DemoWindows("heldout", (96,), 3).request(1, 1).messages)
    tokens = [rng.randrange(vocab_size) for _ in range(num_tokens)]

    alone = Sequence(target, prompt, embedded, num_tokens + 64)
    expected = []
    for token in tokens:
        expected += logits_of(target, alone.rows(([token], [-1], [0])))
        alone.cache.commit([0])

    crowded = Sequence(target, prompt, embedded, num_tokens + 64)
    other = Sequence(target, other_prompt, target.embed(other_prompt), 64)
    done = 0
    while done < num_tokens:
        right = tokens[done : done + rng.randint(1, 7)]
        tree = random_tree(right, vocab_size, rng)
        ours, company = crowded.rows(tree), other.rows(random_tree([rng.randrange(vocab_size)] * 3, vocab_size, rng))
        logits_NV = logits_of(target, ours, company)[0] if rng.random() < 0.5 else logits_of(target, company, ours)[1]
        crowded.cache.commit(tree[2])
        other.cache.rollback()
        for number, node in enumerate(tree[2]):
            assert torch.equal(logits_NV[node], expected[done + number][0]), f"token {done + number}"
        done += len(right)
    torch.set_num_threads(before)
    used = alone.cache.length
    assert torch.equal(alone.cache.data_LKGSd[..., :used, :], crowded.cache.data_LKGSd[..., :used, :])
