"""torch's random numbers, as bases draw them."""

from __future__ import annotations

import torch


class TorchRandom:
    """torch's random numbers, in the dtype and on the device of a tensor."""

    def __init__(self, like: torch.Tensor) -> None:
        self.like = like.detach()

    def normal(self, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, dtype=self.like.dtype, device=self.like.device)

    def uniform(self, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.rand(shape, dtype=self.like.dtype, device=self.like.device)

    def gamma(self, concentration: torch.Tensor) -> torch.Tensor:
        return torch._standard_gamma(concentration)
