"""The property that losslessness rests on: a row's logits are the same to the last bit alone and among others."""

import random

import pytest
import torch

from demo.windows import DemoWindows
from sparrow_core.decoding.cache import KVCache
from sparrow_core.decoding.rounds import prefill
from sparrow_core.decoding.target import EmbeddedPrompt, Prompt, SequenceRows, TargetModel
from sparrow_core.decoding.tree import ancestors, depths
from sparrow_core.models.loading import load_target

NUM_TOKENS = 300  # over two blocks of generated slots


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def target(request: pytest.FixtureRequest) -> TargetModel:
    return load_target("demo/weights/target", device="cpu", dtype=request.param)


def forward(target: TargetModel, cache: KVCache, offset: int, tokens: list[int], parents: list[int]) -> torch.Tensor:
    parents_N = torch.tensor(parents)
    positions_AN = (depths(parents_N) + cache.length + offset).expand(target.info.position_axes, -1)
    visible_NN = None if len(tokens) == 1 else ancestors(parents_N)
    embeddings_ND = target.embed_tokens(torch.tensor(tokens))
    rows = (SequenceRows(cache, len(tokens), visible_NN),)
    return target.logits(target.forward(embeddings_ND, positions_AN, rows).states_RD)


def prefilled(target: TargetModel, prompt: Prompt, embedded: EmbeddedPrompt) -> KVCache:
    cache = target.info.cache_shape.cache(prompt.token_ids_S.numel() + NUM_TOKENS + 40)
    prefill(target, prompt, embedded, cache, 256)
    return cache


def random_tree(right: list[int], vocab_size: int, rng: random.Random) -> tuple[list[int], list[int], list[int]]:
    """Tokens and parents of a tree that holds the tokens `right` on a path from its root, and that path."""
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
@pytest.mark.parametrize("length", [64, 1500])
@torch.inference_mode()
def test_logits_and_cache_do_not_depend_on_the_company(target: TargetModel, length: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    rng = random.Random(length)
    prompt = target.build_prompt(DemoWindows("heldout", (length,), 3).request(0, 1).messages)
    embedded = target.embed(prompt)
    tokens = [rng.randrange(target.info.vocab_size) for _ in range(NUM_TOKENS)]

    alone = prefilled(target, prompt, embedded)
    expected = []
    for token in tokens:
        expected.append(forward(target, alone, embedded.position_offset, [token], [-1])[0])
        alone.commit([0])

    crowded = prefilled(target, prompt, embedded)
    done = 0
    while done < NUM_TOKENS:
        right = tokens[done : done + rng.randint(1, 7)]
        tree, parents, path = random_tree(right, target.info.vocab_size, rng)
        logits_NV = forward(target, crowded, embedded.position_offset, tree, parents)
        crowded.commit(path)
        for node, row in zip(path, expected[done:], strict=False):
            assert torch.equal(logits_NV[node], row), f"token {done}, {len(tree)} rows"
        done += len(right)
    torch.set_num_threads(before)
    assert torch.equal(alone.data_LKGSD[..., : alone.length, :], crowded.data_LKGSD[..., : alone.length, :])
