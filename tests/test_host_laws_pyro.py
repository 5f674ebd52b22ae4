"""What Pyro's own tests demand of Pyro's transforms, distributions and guides, demanded of ours.

In our words, in float64, with the host's tolerances: 1e-6 for what must come back, 1e-5 for what must agree.
"""

import copy
import inspect
import io
import pickle
import warnings
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as host
import pytest
import torch
from cases import ALL, CONTEXT, DIM, context, name_of, onto_the_reals, perturbed, points, precision, takes, targets
from pyro.distributions.conditional import (
    ConditionalComposeTransformModule,
    ConditionalTransform,
    ConditionalTransformedDistribution,
)
from pyro.infer import JitTrace_ELBO, Predictive, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO
from pyro.infer.autoguide import AutoDelta, AutoDiscreteParallel, AutoGuideList
from pyro.infer.svi import SVI

import ppl_flows as pf
from ppl_flows.pyro import AutoFlow, Flow, FlowTransform, transforms

pytestmark = pytest.mark.usefixtures("float64")


def small_recipes():
    """With a context and without, one layer deep where that can be said."""
    made = [f for f in map(partial(getattr, pf), pf.__all__) if inspect.isfunction(f) and takes(f, "dim")]
    small = {"hidden": (4,), "flow_layers": 1}
    narrow = [partial(f, **{name: value for name, value in small.items() if takes(f, name)}) for f in made]
    return [f(1) for f in narrow] + [f(DIM, context_dim=CONTEXT) for f in narrow]


EVERY = [*ALL, *small_recipes()]
REAL = [b for b in ALL if onto_the_reals(b) and b.event_shape == b.output_shape == (DIM,)]
every = pytest.mark.parametrize("bijection", EVERY, ids=name_of)
real = pytest.mark.parametrize("bijection", REAL, ids=name_of)
conditional = pytest.mark.parametrize("bijection", [b for b in ALL if b.context_dim], ids=name_of)


def transform_of(bijection, given=True):
    """Away from its start, with one unbatched context where it takes one."""
    transform = FlowTransform(bijection, perturbed(bijection))
    return transform.condition(torch.tensor(context(bijection)[0])) if given and bijection.context_dim else transform


def rows(bijection, batch=(5,), at=points):
    return torch.tensor(at(bijection, int(np.prod(batch)))).reshape(*batch, *at(bijection, 1).shape[1:])


def close(bijection, got, expected, atol=1e-6):
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=atol + precision(bijection))


def normal(*batch):
    return dist.Normal(torch.zeros(*batch, DIM), 1.0).to_event(1)


# --- transforms


@every
@pytest.mark.parametrize("batch", [(), (3, 4)], ids=str)
def test_shapes_are_those_that_the_transform_foretells(bijection, batch):
    transform = transform_of(bijection)
    before, after = batch + bijection.event_shape, batch + bijection.output_shape
    assert transform.forward_shape(before) == after
    assert transform.inverse_shape(after) == before
    x = rows(bijection, batch)
    y = transform(x)
    assert y.shape == after
    assert transform.inv(y.clone()).shape == before
    assert transform.log_abs_det_jacobian(x, y).shape == batch


@pytest.mark.parametrize("bijection", [b for b in EVERY if b.event_shape == (1,)], ids=name_of)
def test_sign_says_whether_the_map_of_one_number_increases(bijection):
    transform = transform_of(bijection, given=False)  # it needs no context
    given = transform_of(bijection)
    ends = torch.sort(rows(bijection, (2,)), dim=0).values
    y = given(ends)
    assert transform.sign == transform.inv.sign == torch.sign(y[1] - y[0]).item()


def test_sign_goes_through_the_hosts_compositions_and_is_absent_in_more_dimensions():
    falls = FlowTransform(Negation(1))
    assert falls.sign == falls.inv.sign == -1
    assert host.ComposeTransform([falls, host.ExpTransform(), falls.inv, falls]).sign == -1
    assert transforms.Elementwise(1, pf.Sigmoid()).inv.sign == 1
    assert FlowTransform(pf.Batched(Negation(1), batch=(3,))).sign.tolist() == [-1.0] * 3
    assert not hasattr(transforms.Householder(2), "sign")
    assert not hasattr(transforms.Householder(2).inv, "sign")


@dataclass(frozen=True)
class Negation(pf.Bijection):
    """Falls, as no layer of ours does, but one of a user's may."""

    dim: int

    def _forward(self, params, x, context):
        return -x, 0.0 * x[..., 0]

    _inverse = _forward


class Both(torch.nn.Module):
    """A transform and its log det."""

    def __init__(self, transform):
        super().__init__()
        self.transform = transform

    def forward(self, x):
        y = self.transform(x)
        return y, self.transform.log_abs_det_jacobian(x, y)


def obstacle_to_trace(bijection, transform, at, *, constant):
    """What torch.jit's trace fails of, in words; none where it is right for other numbers."""
    both, values = Both(transform), rows(bijection, (10,), at)

    def function(x):
        return both(x)

    if constant:
        transform.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        try:
            traced = torch.jit.trace(function if constant else both, (values[:5],), check_trace=False)
        except NotImplementedError as error:
            return str(error)
        for got, expected in zip(traced(values[5:]), both(values[5:]), strict=True):
            close(bijection, got, expected)
        torch.jit.save(traced, io.BytesIO())
    return ""


@pytest.mark.parametrize(
    ("bijection", "constant"),
    [(b, False) for b in EVERY] + [(b, True) for b in small_recipes()],  # with weights that train, or that are constant
    ids=lambda value: f"constant={value}" if isinstance(value, bool) else name_of(value),
)
def test_torch_jit_traces_a_direction_or_says_that_it_cannot(bijection, constant):
    transform = transform_of(bijection)
    obstacles = [
        obstacle_to_trace(bijection, transform, points, constant=constant),
        obstacle_to_trace(bijection, transform.inv, targets, constant=constant),
    ]
    assert all(o.startswith("torch.jit.trace records one run") for o in obstacles if o)
    assert not all(obstacles) or "NeuralODE" in bijection._layer_counts()


# --- conditional transforms


@every
def test_a_transform_is_the_hosts_conditional_one_if_and_only_if_it_takes_a_context(bijection):
    transform = FlowTransform(bijection, perturbed(bijection))
    for t in (transform, transform.inv, copy.deepcopy(transform), pickle.loads(pickle.dumps(transform.inv))):
        assert isinstance(t, ConditionalTransform) == bool(bijection.context_dim)
        if not bijection.context_dim:
            with pytest.raises(ValueError, match="context_dim=0"):
                t.condition(torch.zeros(2))


@conditional
@pytest.mark.parametrize("batch", [(), (6, 7)], ids=str)
def test_the_inverse_takes_a_context_as_the_transform_does(bijection, batch):
    transform = transform_of(bijection, given=False)
    c = torch.randn(*batch, bijection.context_dim)
    x, y = rows(bijection, batch), rows(bijection, batch, targets)
    assert transform.inv.inv is transform
    close(bijection, transform.inv.condition(c)(y), transform.condition(c).inv(y))
    close(bijection, transform.inv.condition(c).inv(x), transform.condition(c)(x))
    assert {*transform.inv.condition(c).parameters()} == {*transform.parameters()}


@pytest.mark.parametrize("bijection", [b for b in REAL if b.context_dim == CONTEXT], ids=name_of)
def test_the_hosts_conditional_compositions_hold_ours_beside_theirs(bijection):
    ours, constant = transform_of(bijection, given=False), transforms.Coupling(DIM, conditioner=pf.MLP((4,)))
    theirs = host.conditional_spline(DIM, CONTEXT, [4])
    parts = [host.AffineTransform(1.0, 2.0), constant, theirs, ours, ours.inv, ours]
    composed = ConditionalComposeTransformModule(parts, cache_size=1)
    assert {*composed.parameters()} == {*constant.parameters(), *theirs.parameters(), *ours.parameters()}

    c = torch.randn(3, CONTEXT)
    x = torch.randn(3, DIM)
    y, log_det = x, 0.0
    for part in parts:
        given = part.condition(c) if isinstance(part, ConditionalTransform) else part
        before, y = y, given(y)
        log_det = log_det + given.log_abs_det_jacobian(before, y).reshape(3, -1).sum(-1)
    close(bijection, composed.condition(c)(x), y)
    close(bijection, composed.inv.condition(c)(y), x)

    for transforms_ in ([composed], parts):
        given = ConditionalTransformedDistribution(normal(3), transforms_).condition(c)
        assert given.rsample().shape == (3, DIM)
        close(bijection, given.log_prob(y), normal().log_prob(x) - log_det, atol=1e-5)


@real
def test_maximum_likelihood_by_the_hosts_distribution_reaches_every_parameter(bijection):
    transform = transform_of(bijection, given=False)
    given = transform_of(bijection)
    given = transform.condition(given.context) if bijection.context_dim else transform
    d = dist.TransformedDistribution(normal(), [given])
    optimiser = torch.optim.Adam(transform.parameters(), 1e-2) if [*transform.parameters()] else None
    before = [p.detach().clone() for p in transform.parameters()]
    data = torch.randn(3, DIM)
    for _ in range(3 if optimiser else 0):
        optimiser.zero_grad()
        (-d.log_prob(data).mean()).backward()
        optimiser.step()
    moved = [not torch.equal(p, q) for p, q in zip(transform.parameters(), before, strict=True)]
    assert all(moved)


# --- distributions


@real
def test_a_flow_is_a_distribution_as_the_hosts_are(bijection):
    flow = Flow(transform_of(bijection))
    assert flow.has_rsample
    assert flow.event_shape == (DIM,)
    x = flow.sample((2, 3))
    assert flow.support.check(x).all()
    scores = flow.log_prob(x)
    for made in (flow.expand_by([2, 3]), flow.expand([2, 3]), pickle.loads(pickle.dumps(flow)).expand([2, 3])):
        assert made.batch_shape == (2, 3)
        assert made.sample((4,)).shape == (4, 2, 3, DIM)
        close(bijection, made.log_prob(x), scores, atol=1e-5)
    close(bijection, flow.expand([2, 3]).to_event(1).log_prob(x), scores.sum(-1), atol=1e-5)
    mask = torch.tensor([True, False, True])
    close(bijection, flow.expand([2, 3]).mask(mask).log_prob(x), scores * mask, atol=1e-5)


# --- guides


def small_flow(dim):
    return pf.iaf(dim, flow_layers=1, hidden=(6,))


guide_of = partial(AutoFlow, flow=small_flow, start="init")


def several():
    pyro.sample("x", dist.Normal(0.0, 1.0))
    with pyro.plate("plate", 2):
        pyro.sample("y", dist.LogNormal(0.0, 1.0))
        pyro.sample("z", dist.Beta(2.0, 2.0))


def in_a_list(model):
    inner = AutoGuideList(pyro.poutine.block(model, hide=["x"]))
    inner.y = guide_of(pyro.poutine.block(model, hide=["x"]))
    guide = AutoGuideList(model)
    guide.append(AutoDelta(pyro.poutine.block(model, expose=["x"])))
    guide.append(inner)
    return guide


@pytest.mark.parametrize("make", [guide_of, in_a_list], ids=["alone", "list"])
@pytest.mark.parametrize("jit", [False, True], ids=["torch.save", "torch.jit.save"])
def test_a_guide_is_saved_by_torch_and_draws_the_same(make, jit):
    guide = make(several)
    guide()
    pyro.set_rng_seed(0)
    expected = guide.call()
    parameters = dict(guide.named_parameters())
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if jit:
            torch.jit.save(torch.jit.trace_module(guide, {"call": ()}, check_trace=False), file)
        else:
            torch.save(guide, file)
        pyro.clear_param_store()
        file.seek(0)
        again = torch.jit.load(file) if jit else torch.load(file, weights_only=False)
    pyro.set_rng_seed(0)
    torch.testing.assert_close(tuple(again.call()), tuple(expected))
    torch.testing.assert_close(dict(again.named_parameters()), parameters)


def test_predictions_are_traced_and_saved():
    def regression(x, y=None):
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)

    x, guide = torch.randn(5), guide_of(regression)
    guide(x, torch.randn(5))
    predictive = Predictive(regression, guide=guide, num_samples=10)
    expected = predictive(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace_module(predictive, {"call": (x,)}, check_trace=False)
    first, second = traced.call(x), traced.call(x)
    assert [v.shape for v in first] == [expected[name].shape for name in sorted(expected)]
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True)), "draws, and no constants"


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceGraph_ELBO, TraceEnum_ELBO])
def test_a_factor_of_the_model_moves_the_loss_by_itself(elbo):
    def model(log_factor):
        pyro.sample("z1", dist.Normal(0.0, 1.0))
        pyro.factor("f1", log_factor)
        with pyro.plate("plate", 3):
            pyro.factor("f2", log_factor)
            pyro.sample("z2", dist.Normal(torch.zeros(3), torch.ones(3)))

    guide, losses = guide_of(model), []
    guide(torch.tensor(0.0))
    for log_factor in (4.0, 5.0):
        pyro.set_rng_seed(1)
        losses.append(elbo(strict_enumeration_warning=False).loss(model, guide, torch.tensor(log_factor)))
    assert losses[1] - losses[0] == pytest.approx(-1 - 3)


def test_jitted_particles_train_the_guide_and_its_quantiles_are_in_order():
    guide = guide_of(several)
    elbo = JitTrace_ELBO(num_particles=50, vectorize_particles=True, ignore_jit_warnings=True)
    svi = SVI(several, guide, pyro.optim.Adam({"lr": 0.03}), elbo)
    for _ in range(150):
        svi.step()
    state = torch.random.get_rng_state()
    quantiles, median = guide.quantiles([0.1, 0.5, 0.9]), guide.median()
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, exact in {"x": [-1.28, 0.0, 1.28], "y": [0.278, 1.0, 3.6], "z": [0.196, 0.5, 0.804]}.items():
        assert not quantiles[name].requires_grad
        assert torch.all(quantiles[name].diff(dim=0) > 0)
        assert torch.equal(median[name], quantiles[name][1])
        for level, q in zip(quantiles[name], exact, strict=True):
            torch.testing.assert_close(level, torch.full_like(level, q), rtol=0.2, atol=0.2)


def test_the_hosts_plates_of_particles_go_around_a_guide():
    def model():
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.Normal(a[..., None], torch.ones(3)).to_event(1))
        with pyro.plate("i", 2):
            return a, b, pyro.sample("d", dist.Dirichlet(b.exp()))

    guide = guide_of(model)
    for shape in ((), (6,), (5, 4)):
        with pyro.plate_stack("particles", shape, rightmost_dim=-2):
            a, b, d = pyro.poutine.replay(model, pyro.poutine.trace(guide).get_trace())()
        one = (1,) if shape else ()
        assert (a.shape, b.shape, d.shape) == ((*shape, *one), (*shape, *one, 3), (*shape, 2, 3))


def test_a_guide_stands_in_a_list_beside_the_hosts_discrete_one():
    data = torch.tensor([0.0, 1.0, 10.0])

    def model():
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
        with pyro.plate("data", 3):
            which = pyro.sample("which", dist.Categorical(weights))
            pyro.sample("obs", dist.Normal(loc[which], 1.0), obs=data)

    guide = AutoGuideList(model)
    guide.append(guide_of(pyro.poutine.block(model, hide=["which"])))
    guide.append(AutoDiscreteParallel(pyro.poutine.block(model, expose=["which"])))
    assert np.isfinite(TraceEnum_ELBO(max_plate_nesting=1).loss_and_grads(model, guide))
