"""Residual conditioners: against another library, that deep ones start well, and that they train."""

from functools import partial

import numpy as np
import pytest
import torch
from pyro.distributions import Normal

import ppl_flows as pf
from ppl_flows.core.params import flatten, map_params

X = np.array([[0.3, -1.2, 0.7, 2.0]])


def plain_weights(shapes: list[tuple[int, int]]) -> dict[str, np.ndarray]:
    params = {}
    for i, (n, m) in enumerate(shapes):
        params |= {f"w{i}": np.cos(3.0 * np.arange(n * m) + i).reshape(n, m), f"b{i}": np.sin(np.arange(m) + i)}
    return params


def test_a_residual_mlp_is_nflows_residual_net():
    """Recorded from nflows 0.14: ``ResidualNet(4, 3, 6, num_blocks=2, activation=tanh)`` with these weights."""
    params = plain_weights([(4, 6), *[(6, 6)] * 4, (6, 3)])
    expected = [[0.9752889559600356, -2.501519311825512, 3.122505572410725]]
    for inputs in (4, 3):  # theirs concatenates the context to x
        network = pf.MLP((6, 6), activation="tanh", residual=True).bind(inputs, 3, 4 - inputs)
        context = X[:, inputs:] if inputs < 4 else None
        np.testing.assert_allclose(network(params, X[:, :inputs], context), expected, rtol=1e-13)


def test_a_residual_made_is_nflows_made():
    """Recorded from nflows 0.14: ``MADE(4, 6, num_blocks=2, output_multiplier=2, activation=tanh)``.

    With these weights, after its hidden units were sorted by degree.
    """
    params = plain_weights([(4, 6), *[(6, 6)] * 4, (6, 8)])
    expected = [
        [-0.9589242746631385, -0.27941549819892586],
        [1.082201292335537, 0.599996241347578],
        [-0.6824046599117817, 0.6780065917483165],
        [-0.3484709704512763, -1.3005912188833233],
    ]
    network = pf.MLP((6, 6), activation="tanh", residual=True).bind_autoregressive(4, 1, 2)
    np.testing.assert_allclose(network(params, X[..., None], None), [expected], rtol=1e-13)


@pytest.mark.parametrize("activation", ["relu", "silu", "softplus"])
@pytest.mark.parametrize("wiring", [pf.Coupling, pf.MaskedAutoregressive])
def test_deep_residual_conditioners_start_next_to_the_identity(wiring, activation):
    layer = wiring(6, conditioner=pf.MLP((32,) * 40, residual=True, activation=activation))
    x = np.random.default_rng(0).standard_normal((50, 6))
    y, log_det = layer.forward(layer.init(np.random.default_rng(0)), x)
    assert 1e-4 < np.abs(y - x).max() < 0.3
    assert np.abs(log_det).max() < 0.3


RECIPES = {
    "real_nvp": pf.real_nvp,
    "iaf": pf.iaf,
    "maf": pf.maf,
    "nsf": pf.nsf,
    "nsf autoregressive": partial(pf.nsf, wiring="autoregressive"),
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_recipes_pass_residual_on_and_every_block_trains(recipe):
    """Also in one dimension, where couplings are elementwise, and with a context."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((100, 2))
    data = torch.tensor(np.stack([np.sin(2 * z[:, 1]) + 0.3 * z[:, 0], z[:, 1]], -1))
    for y, context in ((data, None), (data[:, :1], data[:, 1:])):
        dim, context_dim = y.shape[-1], 2 - y.shape[-1]
        flow = recipe(dim, flow_layers=2, hidden=(8, 8, 8), residual=True, context_dim=context_dim)
        start = flow.init(rng)
        params = map_params(lambda _, a: torch.tensor(a, requires_grad=True), start)
        leaves = dict(flatten(params))
        optimizer, losses = torch.optim.Adam(leaves.values(), lr=0.01), []
        for _ in range(30):
            x, log_det = flow.inverse(params, y, context)
            losses.append(-(Normal(0.0, 1.0).log_prob(x).sum(-1) + log_det).mean())
            optimizer.zero_grad()
            losses[-1].backward()
            optimizer.step()
        assert losses[-1] < losses[0] - 0.1
        matrices = {name.rpartition(".")[2] for name in leaves if ".w" in name}
        assert matrices == {f"w{i}" for i in range(8)}, "three blocks of two matrices between two"
        for name, a in flatten(start):
            if dim == 1 and name.endswith("w0"):
                continue  # a masked network has nothing before the only coordinate to look at
            assert np.abs(leaves[name].detach().numpy() - a).max() > 1e-3, f"{name} did not train"
