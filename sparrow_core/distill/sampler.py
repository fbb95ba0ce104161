"""Which windows a training step reads: a pure function of (seed, step), the same for any number of workers."""

import numpy as np


class WindowSampler:
    """Windows in a fresh random order per epoch; batches run on across the end of an epoch.

    A resumed run asks for the batches of its next steps and so never reads a window twice in an epoch.
    """

    def __init__(self, num_windows: int, batch_size: int, seed: int) -> None:
        self._num_windows = num_windows
        self._batch_size = batch_size
        self._seed = seed
        self._orders: dict[int, np.ndarray] = {}

    def batch(self, step: int) -> list[int]:
        """Window indices of the whole global batch of `step`."""
        first = step * self._batch_size
        return [self._window(place) for place in range(first, first + self._batch_size)]

    def _window(self, place: int) -> int:
        epoch, within = divmod(place, self._num_windows)
        if epoch not in self._orders:
            order = np.random.default_rng((self._seed, epoch)).permutation(self._num_windows)
            self._orders = {key: value for key, value in self._orders.items() if key == epoch - 1} | {epoch: order}
        return int(self._orders[epoch][within])


def noise_seeds(seed: int, step: int, batch_size: int) -> list[int]:
    """For each window of a step's global batch, the seed of its noise."""
    return [int(n) for n in np.random.default_rng((seed, 2, step)).integers(2**62, size=batch_size)]


def shows_bridge(seed: int, step: int, batch_size: int, share: float) -> list[bool]:
    """For each window of a step's global batch, whether training shows its visual bridge states."""
    draws = np.random.default_rng((seed, 1, step)).random(batch_size)
    return [bool(draw < share) for draw in draws]
