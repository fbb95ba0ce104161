"""Which examples a training step reads, and its random choices: pure functions of (seed, step) for any worker count."""

import numpy as np


class ExampleSampler:
    """Examples in a new random order each epoch; a batch may go over from one epoch into the next.

    A resumed run asks for the batches of its next steps, so it reads no example twice in an epoch.
    """

    def __init__(self, num_examples: int, batch_size: int, seed: int) -> None:
        self._num_examples = num_examples
        self._batch_size = batch_size
        self._seed = seed
        self._orders: dict[int, np.ndarray] = {}

    def batch(self, step: int) -> list[int]:
        """Indices of the examples in the global batch of `step`."""
        first = step * self._batch_size
        return [self._example(draw) for draw in range(first, first + self._batch_size)]

    def _example(self, draw: int) -> int:
        epoch, within = divmod(draw, self._num_examples)
        if epoch not in self._orders:
            order = np.random.default_rng((self._seed, epoch)).permutation(self._num_examples)
            self._orders = {key: value for key, value in self._orders.items() if key == epoch - 1} | {epoch: order}
        return int(self._orders[epoch][within])


def noise_seeds(seed: int, step: int, batch_size: int) -> list[int]:
    """The seed of the noise of each example in a step's global batch."""
    return [int(n) for n in np.random.default_rng((seed, 2, step)).integers(2**62, size=batch_size)]


def shows_bridge(seed: int, step: int, batch_size: int, share: float) -> list[bool]:
    """Whether training shows the visual bridge of each example in a step's global batch; true for `share` of all."""
    draws = np.random.default_rng((seed, 1, step)).random(batch_size)
    return [bool(draw < share) for draw in draws]
