"""The Muon optimiser (Jordan, 2024): momentum with orthogonalised updates, for weight matrices inside a transformer.

Runs in float32 and batched by shape, since a CPU gains nothing from bfloat16 and much from few large products.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic polynomial that moves all singular values towards 1
ITERATIONS = 4
RMS_OF_ADAM = 0.2  # typical RMS of an Adam update, so that both optimisers can share a learning rate


class Muon(torch.optim.Optimizer):
    """Muon with decoupled weight decay. Accepts two-dimensional parameters only."""

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape[weight.shape].append(weight)
            for weights in by_shape.values():
                updates = orthogonalise(torch.stack([self._momentum(w, group["momentum"]) for w in weights]))
                scale = RMS_OF_ADAM * max(weights[0].shape) ** 0.5
                for weight, update in zip(weights, updates, strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * scale)

    def _momentum(self, weight: nn.Parameter, momentum: float) -> Tensor:
        """Nesterov momentum of the weight's gradient."""
        gradient = weight.grad
        assert gradient is not None
        buffer = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
        buffer.lerp_(gradient, 1 - momentum)
        return gradient.lerp(buffer, momentum)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Approximately the nearest (semi-)orthogonal matrices of [N, rows, columns], by Newton-Schulz iterations."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
