"""Keyed noise: it is the published generator, uniform, and a function of its key alone."""

import torch
from scipy import stats

from sparrow_core.decoding.noise import Stream, _mix, gumbel, uniform


def test_mix_is_splitmix64() -> None:
    """First outputs of the public-domain reference implementation for seeds 0 and 1234567."""
    signed = lambda x: x - (1 << 64) if x >= 1 << 63 else x  # noqa: E731
    assert int(_mix(torch.tensor(0))) == signed(0xE220A8397B1DCDAF)
    assert int(_mix(torch.tensor(1234567))) == signed(6457827717110365317)


def test_uniform_in_every_direction_of_the_key() -> None:
    counter = torch.arange(4000)
    zero = torch.zeros(4000, dtype=torch.int64)
    samples = {
        "counter 1": uniform(7, Stream.TOKEN, counter, zero),
        "counter 2": uniform(7, Stream.TOKEN, zero, counter),
        "seed": torch.stack([uniform(seed, Stream.TOKEN, torch.tensor(0)) for seed in range(-1000, 1000)]),
    }
    for name, sample in samples.items():
        assert stats.kstest(sample.numpy(), "uniform").pvalue > 1e-3, name
        correlation = stats.pearsonr(sample[:-1], sample[1:])
        assert correlation.pvalue > 1e-3, name


def test_depends_on_key_alone() -> None:
    positions, vocabulary = torch.tensor([3, 4]), torch.arange(100)
    both = gumbel(1, Stream.TOKEN, positions[:, None], vocabulary)
    assert torch.equal(both[1], gumbel(1, Stream.TOKEN, torch.tensor(4), vocabulary))
    assert torch.equal(both[:, 5:9], gumbel(1, Stream.TOKEN, positions[:, None], torch.arange(5, 9)))
    assert not torch.equal(both, gumbel(1, Stream.PROPOSAL, positions[:, None], vocabulary))
    assert not torch.equal(both, gumbel(2, Stream.TOKEN, positions[:, None], vocabulary))


def test_huge_seeds_are_fine() -> None:
    for seed in (2**64 - 1, 2**63, -(2**63), 2**80):
        assert 0 < float(uniform(seed, Stream.TOKEN, torch.tensor(0))) < 1
