"""Flows of images: shapes, what conditions what, starts, dequantisation, and training on digits."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pyro
import pytest
import torch
from cases import JAX, NUMPY, TORCH, perturbed
from scipy import stats
from sklearn.datasets import load_digits

import ppl_flows as pf
from ppl_flows import numpyro as in_numpyro
from ppl_flows import pyro as in_pyro
from ppl_flows.conditioners.causal_attention import AttentionNetwork
from ppl_flows.core.params import flatten

SMALL = (2, 2, 1)
RECIPES = [
    pf.glow((4, 4, 1), flow_layers=2, hidden=4, context_dim=2),
    pf.real_nvp_image((4, 4, 1), hidden=4, context_dim=2),
    pf.tarflow((4, 4, 1), width=4, heads=2, flow_layers=2, context_dim=2),
]
name = {"ids": ["glow", "real_nvp", "tarflow"]}


def test_squeeze_is_torchs_pixel_unshuffle():
    x = np.random.default_rng(0).standard_normal((3, 4, 6, 2))
    ours, log_det = pf.Squeeze((4, 6, 2)).forward({}, x)
    theirs = torch.nn.functional.pixel_unshuffle(torch.tensor(x).permute(0, 3, 1, 2), 2)  # channels first in a block
    theirs = theirs.reshape(3, 2, 4, 2, 3).permute(0, 3, 4, 2, 1).reshape(3, 2, 3, 8)
    np.testing.assert_array_equal(ours, theirs)
    assert not log_det.any()


def test_masks_are_what_their_names_say():
    x = np.random.default_rng(0).standard_normal((4, 4, 2))
    for mask, passes in (
        ("halves", np.broadcast_to([True, False], x.shape)),
        ("checkerboard", np.broadcast_to((np.indices((4, 4)).sum(0) % 2 == 0)[..., None], x.shape)),
    ):
        for flip in (False, True):
            layer = pf.Coupling((4, 4, 2), mask=mask, flip=flip, conditioner=pf.ConvNet(3))
            y, _ = layer.forward(perturbed(layer), x)
            np.testing.assert_array_equal(y == x, passes != flip)


def test_a_vector_holds_the_latents_of_the_first_scale_first():
    halves = pf.MultiScale([pf.Inverse(pf.Squeeze((4, 4, 1))), pf.Inverse(pf.Squeeze((2, 2, 2)))])
    image = np.arange(16.0).reshape(4, 4, 1)
    vector, _ = halves.inverse({"0": {}, "1": {}}, image)
    squeezed = pf.Squeeze((4, 4, 1)).forward({}, image)[0]
    np.testing.assert_array_equal(vector[:8], squeezed[..., 2:].reshape(-1))
    np.testing.assert_array_equal(np.sort(vector[8:]), np.sort(squeezed[..., :2].reshape(-1)))


@pytest.mark.parametrize("flow", RECIPES, **name)
def test_recipes_agree_between_libraries_and_start_next_to_the_identity(flow):
    rng = np.random.default_rng(0)
    x, c = rng.standard_normal((5, *flow.event_shape)), rng.standard_normal((5, 2))
    log_det = flow.forward(flow.init(rng), x, c)[1]
    assert np.abs(log_det).max() < 0.5
    params = perturbed(flow, 0.05)
    y, log_det = flow.forward(params, x, c)
    assert y.shape == (5, *flow.output_shape)
    back, back_log_det = flow.inverse(params, y, c)
    np.testing.assert_allclose(back, x, atol=1e-10)
    np.testing.assert_allclose(back_log_det, -log_det, atol=1e-10)
    for library in (TORCH, JAX):
        others = library.run(flow.forward, library.params(params), library.array(x), library.array(c))
        np.testing.assert_allclose(others[0], y, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(others[1], log_det, rtol=1e-10, atol=1e-10)
    other_class = flow.forward(params, x, c + 1.0)[0]
    assert np.abs(other_class - y).max() > 1e-6, "the class does not reach the image"


def test_a_patch_sees_only_the_patches_before_it():
    layer = pf.tarflow((4, 4, 1), width=4, heads=2, flow_layers=1)
    params = JAX.params(perturbed(layer))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 4, 1)))

    def patches(x):
        return pf.Squeeze((4, 4, 1)).inverse({}, x.reshape(2, 2, 4))[0]

    def run(flat):
        y = layer.inverse(params, patches(flat))[0]
        return pf.Squeeze((4, 4, 1)).forward({}, y)[0].reshape(-1)

    flat = pf.Squeeze((4, 4, 1)).forward({}, x)[0].reshape(-1)
    jacobian = np.abs(np.asarray(jax.jit(jax.jacobian(run))(flat))).reshape(4, 4, 4, 4).max(axis=(1, 3))
    np.testing.assert_array_equal(np.triu(jacobian, 1), 0)
    assert (np.tril(jacobian, -1) > 0).sum() == 6


@pytest.mark.parametrize("flip", [False, True])
def test_inverting_patches_sends_each_through_the_network_once(flip, monkeypatch):
    attention = pf.CausalAttention(4, heads=2, blocks=3)
    layer = pf.MaskedAutoregressive((4, 4), flip=flip, conditioner=attention)
    params, y = NUMPY.params(perturbed(layer)), np.random.default_rng(0).standard_normal((2, 4, 4))
    tokens = []
    heads = AttentionNetwork._heads

    def counted(self, p, a):
        tokens.append(a.shape[-2])
        return heads(self, p, a)

    monkeypatch.setattr(AttentionNetwork, "_heads", counted)
    layer.forward(params, y)
    forward = sum(tokens)
    tokens.clear()
    layer.inverse(params, y)
    assert sum(tokens) == forward == 4 * 3


@pytest.mark.parametrize(
    "flow",
    [
        pf.Inverse(pf.tarflow(SMALL, transformer=pf.Sigmoid(), width=4, heads=2, patch=1, flow_layers=1)),
        pf.MultiScale([pf.LogitTransform(SMALL)]),
        pf.PerPixel(pf.Elementwise(1, pf.Softplus()), height=2, width=2),
    ],
    ids=["patches", "multi-scale", "per pixel"],
)
def test_hosts_see_the_range_of_pixels(flow):
    d = in_pyro.Flow(flow)
    assert d.support.event_dim == 3
    assert d.support.check(d.sample((5,))).all()
    assert not d.support.check(torch.full(SMALL, -1.0))
    in_jax = in_numpyro.Flow(flow)
    assert in_jax.support.check(in_jax.sample(jax.random.key(0), (5,))).all()
    assert not in_jax.support.check(jnp.full(SMALL, -1.0)).all()


def test_images_of_different_intervals_are_refused_by_the_hosts():
    half = pf.PerPixel(pf.Partial(pf.Elementwise(1, pf.Sigmoid()), dim=2, index=(0,)), height=2, width=2)
    coupled = pf.Coupling((2, 2, 2), pf.Sigmoid(), conditioner=pf.ConvNet(2))
    assert half.codomain[:2] == ((0, 1), None)
    assert coupled.codomain[:2] == ((-np.inf, np.inf), (0, 1))
    for shell in (in_pyro, in_numpyro):
        for flow in (half, coupled):
            with pytest.raises(ValueError, match="different intervals have no constraint"):
                shell.Flow(flow)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pf.MultiScale([]), "got no scales"),
        (lambda: pf.MultiScale([pf.Coupling(4)]), r"takes bijections of images, got one from \(4,\)"),
        (lambda: pf.MultiScale([pf.Squeeze((4, 4, 1)), pf.Squeeze((2, 2, 2))]), "so the next must take"),
        (lambda: pf.MultiScale([pf.Inverse(pf.LogitTransform(SMALL))]), "not on the reals"),
        (lambda: pf.Squeeze((3, 4, 1)), "factor must divide height and width"),
        (lambda: pf.Coupling((4, 4, 1)), "one channel cannot be split"),
        (lambda: pf.Coupling((4, 4, 2), mask="rows"), "unknown mask 'rows'"),
        (lambda: pf.Coupling((4, 4)), r"dim must be \(height, width, channels\)"),
        (lambda: pf.tarflow((4, 4, 1), width=6, heads=4), "width must be a multiple of heads"),
        (lambda: pf.PerPixel(pf.Squeeze((2, 2, 1)), height=2, width=2), "must map the vector of channels"),
        (lambda: pf.LogitTransform(SMALL, alpha=0.5), "alpha must lie between 0 and 0.5"),
        (lambda: pf.glow((8, 8, 1), scales=0), "at least 1"),
    ],
)
def test_what_cannot_work_is_refused_where_it_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("flow", RECIPES, **name)
def test_hosts_see_images(flow):
    context = np.zeros((7, 2), dtype="float32")
    for shell, shape in ((in_pyro, torch.Size), (in_numpyro, tuple)):
        given = torch.tensor(context) if shell is in_pyro else jnp.asarray(context)
        transform = shell.FlowTransform(flow, context=given)
        assert transform.codomain.event_dim == 3
        assert transform.domain.event_dim == len(flow.event_shape)
        assert transform.forward_shape((7, *flow.event_shape)) == shape((7, 4, 4, 1))
        assert transform.inverse_shape((7, 4, 4, 1)) == shape((7, *flow.event_shape))
        d = shell.Flow(transform)
        assert (tuple(d.batch_shape), tuple(d.event_shape)) == ((7,), (4, 4, 1))


def test_act_norm_starts_every_channel_at_mean_0_and_variance_1_in_both_languages():
    images = (load_digits().images[:64, ..., None] / 16).astype("float32")
    flow = pf.Chain([pf.PerPixel(pf.ActNorm(4), height=4, width=4), pf.Inverse(pf.Squeeze((8, 8, 1)))])
    params = [in_pyro.flow("f", flow, start=torch.tensor(images)).transforms[0].params]
    params.append(numpyro.handlers.seed(lambda: in_numpyro.flow("f", flow, start=images), 0)().transforms[0].params)
    for p in params:
        as_numpy = {k: {n: np.asarray(a.tolist()) for n, a in v.items()} for k, v in p.items()}
        x = flow.inverse(as_numpy, images)[0]
        np.testing.assert_allclose(x.mean(axis=(0, 1, 2)), 0, atol=1e-5)
        np.testing.assert_allclose(x.var(axis=(0, 1, 2)), 1, atol=1e-5)


def test_bits_per_dim_bounds_the_entropy_of_what_the_density_gives_each_level():
    levels, shape = 5, (1, 1, 1)
    density = stats.norm(0.5, 0.3)
    k = np.arange(levels)
    mass = density.cdf((k + 1) / levels) - density.cdf(k / levels)
    noise = (np.arange(2_000) + 0.5) / 2_000
    bound = pf.bits_per_dim(density.logpdf((k[:, None] + noise) / levels).mean(axis=1), shape, levels)
    assert np.all(bound >= -np.log2(mass))
    np.testing.assert_allclose(bound, -np.log2(mass), atol=0.05)  # the density hardly bends within a level
    best = np.log(levels * mass)  # the ELBO of the best noise: it follows the density within the level
    np.testing.assert_allclose(pf.bits_per_dim(best, shape, levels), -np.log2(mass), rtol=1e-12)


@pytest.mark.parametrize("shell", [in_pyro, in_numpyro], ids=["pyro", "numpyro"])
@pytest.mark.slow_in_numpyro
def test_glow_learns_digits(shell):
    images = load_digits().images[..., None]
    given = torch.tensor(images) if shell is in_pyro else jnp.asarray(images)
    flow = pf.Chain([pf.glow((8, 8, 1), flow_layers=1, hidden=8, blocks=0), pf.LogitTransform((8, 8, 1))])
    fit = shell.fit_density(flow, given, levels=17, steps=60, batch_size=32, lr=1e-2, progress=False)
    bits = pf.bits_per_dim(-fit.losses, (8, 8, 1), 17)
    assert bits[-10:].mean() < bits[:3].mean() - 0.2
    assert bits[-10:].mean() < 4.0, "fewer bits than the levels themselves take"
    started = flow.observe(flow.init(np.random.default_rng(0)), (images + 0.5) / 17, stage="start")[0]
    after = dict(flatten(fit.params))
    for leaf, value in flatten(started):
        assert np.abs(np.asarray(after[leaf].tolist()) - value).max() > 1e-3, f"{leaf} did not move"


@pytest.mark.parametrize("shell", [in_pyro, in_numpyro], ids=["pyro", "numpyro"])
def test_what_are_no_levels_is_an_error(shell):
    flow = pf.Chain([pf.tarflow((2, 2, 1), width=4, heads=2), pf.LogitTransform((2, 2, 1))])
    for images in (np.full((3, 2, 2, 1), 0.5), np.full((3, 2, 2, 1), 17.0)):
        with pytest.raises(ValueError, match=r"levels=17: data must be whole numbers 0, \.\.\., 16"):
            shell.fit_density(flow, torch.tensor(images) if shell is in_pyro else images, levels=17, progress=False)


# variational dequantisation: the noise is a latent, its guide a flow given the image, onto [0, 1)

PIXELS = pf.Chain([pf.nsf(4, flow_layers=1, hidden=(8,)), pf.Reshape(SMALL), pf.LogitTransform(SMALL)])
DEQUANTISER = pf.Chain(
    [
        pf.nsf(4, flow_layers=1, hidden=(8,), context_dim=4),
        pf.Reshape(SMALL),
        pf.PerPixel(pf.Elementwise(1, pf.Sigmoid()), height=2, width=2),
    ]
)


def small_images():
    rng = np.random.default_rng(0)
    return rng.binomial(3, 0.3, (100, *SMALL)).astype("float32")


@pytest.mark.slow
def test_variational_dequantisation_in_pyro():
    images = torch.tensor(small_images())
    ones = torch.ones(SMALL)

    def model():
        with pyro.plate("rows", len(images)):
            noise = pyro.sample("noise", pyro.distributions.Uniform(0 * ones, ones).to_event(3))
            pyro.sample("image", in_pyro.flow("pixels", PIXELS), obs=(images + noise) / 4)

    def guide():
        context = images.reshape(len(images), -1) / 4
        with pyro.plate("rows", len(images)):
            pyro.sample("noise", in_pyro.flow("dequantiser", DEQUANTISER, context=context))

    result = in_pyro.fit(model, guide, steps=60, num_particles=1, draws=1_000, progress=False)
    check_dequantised(result, pyro.get_param_store().keys())


@pytest.mark.slow
def test_variational_dequantisation_in_numpyro():
    images = jnp.asarray(small_images())
    ones = jnp.ones(SMALL)

    def model():
        with numpyro.plate("rows", len(images)):
            noise = numpyro.sample("noise", numpyro.distributions.Uniform(0 * ones, ones).to_event(3))
            numpyro.sample("image", in_numpyro.flow("pixels", PIXELS), obs=(images + noise) / 4)

    def guide():
        context = images.reshape(len(images), -1) / 4
        with numpyro.plate("rows", len(images)):
            numpyro.sample("noise", in_numpyro.flow("dequantiser", DEQUANTISER, context=context))

    result = in_numpyro.fit(model, guide, steps=60, num_particles=1, draws=1_000, progress=False)
    check_dequantised(result, result.params.keys())


def check_dequantised(result, names):
    bits = pf.bits_per_dim(-result.losses / 100, SMALL, 4)
    assert bits[-10:].mean() < bits[:5].mean() - 0.05
    p = np.array([0.343, 0.441, 0.189, 0.027])
    entropy = -(p * np.log2(p)).sum()
    assert pf.bits_per_dim(result.elbo.mean / 100, SMALL, 4) > 0.9 * entropy, "no code is shorter than the entropy"
    assert {n.split(".")[0] for n in names} == {"pixels", "dequantiser"}
