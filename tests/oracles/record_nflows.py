"""Writes ``nflows.npz``: layers of nflows 0.14 with their parameters, inputs, outputs and log dets, in float64.

nflows is no test dependency, as it brings a training stack along; its numbers are kept instead. Run as

    pip install --no-deps --target DIRECTORY nflows==0.14
    PYTHONPATH=DIRECTORY python tests/oracles/record_nflows.py

with torch 2.13.0. ``tests/test_oracles.py`` reads the file.
"""

from pathlib import Path

import numpy as np
import torch
from nflows import transforms
from nflows.nn.nets import ResidualNet

DIM, WIDTH, BINS, BOUND = 4, 6, 5, 3.0
MASK = [1, 0, 1, 0]  # nflows: 1 is transformed
MADE = {"features": DIM, "hidden_features": WIDTH, "num_blocks": 1, "activation": torch.tanh}
SPLINE = {"num_bins": BINS, "tails": "linear", "tail_bound": BOUND}


class Net(torch.nn.Sequential):
    """A plain network of two hidden layers, in nflows' calling convention."""

    def __init__(self, inputs: int, outputs: int) -> None:
        sizes = (inputs, WIDTH), (WIDTH, WIDTH), (WIDTH, outputs)
        first, second, last = (torch.nn.Linear(*size) for size in sizes)
        super().__init__(first, torch.nn.Tanh(), second, torch.nn.Tanh(), last)

    def forward(self, x, context=None):
        return super().forward(x)


def residual_net(inputs: int, outputs: int) -> ResidualNet:
    return ResidualNet(inputs, outputs, WIDTH, num_blocks=1, activation=torch.tanh)


LAYERS = {
    "affine_coupling": lambda: transforms.AffineCouplingTransform(MASK, Net),
    "spline_coupling": lambda: transforms.PiecewiseRationalQuadraticCouplingTransform(MASK, residual_net, **SPLINE),
    "affine_autoregressive": lambda: transforms.MaskedAffineAutoregressiveTransform(**MADE, use_residual_blocks=False),
    "spline_autoregressive": lambda: transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
        **MADE, **SPLINE
    ),
    "lu": lambda: transforms.LULinear(DIM, identity_init=False),
    "householder": lambda: transforms.HouseholderSequence(DIM, 4),
}


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    recorded = {}
    for name, make in LAYERS.items():
        layer = make()
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
        x = 1.5 * torch.randn(20, DIM)
        y, log_det = layer(x)
        for key, value in {"x": x, "y": y, "log_det": log_det, **dict(layer.named_parameters())}.items():
            recorded[f"{name}/{key}"] = np.asarray(value)
    np.savez_compressed(Path(__file__).parent / "nflows.npz", **recorded)


if __name__ == "__main__":
    main()
