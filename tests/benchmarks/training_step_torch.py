"""The variants of ``training_step`` in torch: ours, the bounds, and the other libraries in matched configuration."""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from training_step import BATCH, BINS, BOUND, HIDDEN, LAYERS, sizes

import ppl_flows as pf

torch.set_num_threads(1)
Step = Callable[[], object]
STEPS = 10  # of a fit in one call, which is part of a block of hundreds there


def batch(dim: int) -> torch.Tensor:
    return torch.randn(BATCH, dim, generator=torch.Generator().manual_seed(0))


def training(parameters: Iterable[torch.Tensor], loss: Callable[[torch.Tensor], torch.Tensor], dim: int) -> Step:
    adam, x = torch.optim.Adam(parameters, lr=1e-3), batch(dim)

    def step() -> None:
        adam.zero_grad()
        loss(x.clone()).backward()  # a new tensor, as of a loader: some libraries remember the last one
        adam.step()

    return step


def likelihood(distribution, dim: int) -> Step:
    parameters = list(distribution.parameters()) if isinstance(distribution, torch.nn.Module) else distribution[1]
    log_prob = getattr(distribution, "log_prob", None) or distribution[0]
    return training(parameters, lambda x: -log_prob(x).mean(), dim)


def floor(flow: str, dim: int) -> Step:
    widths = sizes(flow, dim)
    layers = [[torch.randn(n, m) / n**0.5 for n, m in pairwise(widths)] for _ in range(LAYERS[flow])]
    start = batch(widths[0])

    @torch.no_grad()
    def step() -> None:
        x = start
        for weights in layers:
            inputs = [x]
            for w in weights:
                inputs.append(inputs[-1] @ w)
            x = inputs.pop()
            for w, a in zip(reversed(weights), reversed(inputs), strict=True):
                a.T @ x
                x = x @ w.T

    return step


def mlp(widths: tuple[int, ...]) -> torch.nn.Sequential:
    layers = [part for n, m in pairwise(widths) for part in (torch.nn.Linear(n, m), torch.nn.ReLU())]
    return torch.nn.Sequential(*layers[:-1])


def networks(flow: str, dim: int) -> Step:
    nets = torch.nn.ModuleList(mlp(sizes(flow, dim)) for _ in range(LAYERS[flow]))
    width = sizes(flow, dim)[0]
    return training(nets.parameters(), lambda x: sum((net(x) ** 2).mean() for net in nets), width)


def recipe(flow: str, dim: int) -> pf.Bijection:
    options = {"flow_layers": LAYERS[flow], "hidden": HIDDEN, "activation": "relu"}
    if flow == "nsf":
        return pf.nsf(dim, bins=BINS, bound=BOUND, mask="halves", **options)
    return pf.maf(dim, **options) if flow == "maf" else pf.real_nvp(dim, mask="halves", **options)


def ours(flow: str, dim: int) -> Step:
    from ppl_flows.pyro import Flow

    distribution = Flow(recipe(flow, dim))
    return likelihood((distribution.log_prob, distribution.transforms[0].parameters()), dim)


def ours_fit(backend: str | None, flow: str, dim: int) -> Step:
    """The steps that ``fit_density(compile=backend)`` takes: besides, these clip, check and average."""
    from pyro import plate, sample
    from pyro.infer import Trace_ELBO
    from pyro.poutine import scale

    from ppl_flows.pyro import flow as flow_of
    from ppl_flows.pyro.compile.replay import Replay
    from ppl_flows.pyro.compile.step import capture_step
    from ppl_flows.pyro.eager_step import EagerSteps

    bijection, x = recipe(flow, dim), batch(dim)
    plan = np.tile([1.0, 1e-3, 1.0], (STEPS, 1))  # weight of the model, learning rate, share in the mean

    def model(_):
        with plate("rows", BATCH), scale(scale=1 / BATCH):
            sample("data", flow_of("density", bijection), obs=x)

    loop = EagerSteps(Trace_ELBO(), model, lambda _: None, clip=10.0)
    list(loop.run(plan[:1]))
    if backend:
        loop = Replay(loop, capture_step(loop, annealed=False), backend)

    def step() -> None:
        list(loop.run(plan))

    step.steps = STEPS
    return step


def pyro(flow: str, dim: int) -> Step:
    import pyro.distributions as dist
    import pyro.distributions.transforms as T
    from pyro.nn import AutoRegressiveNN, DenseNN

    half, transforms = dim // 2, []
    order = torch.arange(dim).flip(0)
    for _ in range(LAYERS[flow]):
        if flow == "maf":
            transforms.append(T.AffineAutoregressive(AutoRegressiveNN(dim, list(HIDDEN))).inv)
        elif flow == "nsf":
            shapes = [(dim - half) * BINS, (dim - half) * BINS, (dim - half) * (BINS - 1)]
            net = DenseNN(half, list(HIDDEN), shapes)
            transforms.append(T.SplineCoupling(dim, half, net, BINS, BOUND, order="quadratic", identity=True))
        else:
            transforms.append(T.AffineCoupling(half, DenseNN(half, list(HIDDEN), [dim - half] * 2)))
        transforms.append(T.Permute(order))
    transforms.pop()
    base = dist.Normal(torch.zeros(dim), torch.ones(dim)).to_event(1)
    modules = [t.inv if flow == "maf" and hasattr(t, "inv") else t for t in transforms]
    parameters = [p for m in modules if isinstance(m, torch.nn.Module) for p in m.parameters()]
    return likelihood((dist.TransformedDistribution(base, transforms).log_prob, parameters), dim)


def zuko(flow: str, dim: int, compiled: bool = False) -> Step:
    import zuko
    from zuko.distributions import DiagNormal
    from zuko.flows.coupling import GeneralCouplingTransform
    from zuko.transforms import MonotonicRQSTransform

    options = {"transforms": LAYERS[flow], "hidden_features": HIDDEN}
    if flow == "maf":
        made = zuko.flows.MAF(dim, **options)
    elif flow == "rnvp":
        made = zuko.flows.NICE(dim, **options)
    else:
        shapes = ((BINS,), (BINS,), (BINS - 1,))
        layers = [
            GeneralCouplingTransform(
                dim,
                mask=torch.arange(dim) % 2 == i % 2,
                univariate=lambda *phi: MonotonicRQSTransform(*phi, bound=BOUND),
                shapes=shapes,
                hidden_features=HIDDEN,
            )
            for i in range(LAYERS[flow])
        ]
        base = zuko.lazy.UnconditionalDistribution(DiagNormal, torch.zeros(dim), torch.ones(dim), buffer=True)
        made = zuko.lazy.Flow(layers, base)

    def log_prob(x):
        return made().log_prob(x)

    return likelihood((torch.compile(log_prob) if compiled else log_prob, made.parameters()), dim)


def nflows(flow: str, dim: int) -> Step:
    from nflows import transforms as T
    from nflows.distributions.normal import StandardNormal
    from nflows.flows.base import Flow

    def net(n: int, m: int) -> torch.nn.Module:
        made = mlp((n, *HIDDEN, m))
        made.forward = lambda x, context=None, run=made.forward: run(x)
        return made

    layers = []
    for i in range(LAYERS[flow]):
        mask = (torch.arange(dim) + i) % 2
        if flow == "maf":
            layers.append(
                T.MaskedAffineAutoregressiveTransform(dim, HIDDEN[0], num_blocks=1, use_residual_blocks=False)
            )
            layers.append(T.ReversePermutation(dim))
        elif flow == "nsf":
            layers.append(
                T.PiecewiseRationalQuadraticCouplingTransform(
                    mask, net, num_bins=BINS, tails="linear", tail_bound=BOUND
                )
            )
        else:
            layers.append(T.AffineCouplingTransform(mask, net))
    return likelihood(Flow(T.CompositeTransform(layers), StandardNormal([dim])), dim)


def normflows(flow: str, dim: int) -> Step:
    import normflows as nf
    from normflows.flows.neural_spline.coupling import PiecewiseRationalQuadraticCoupling

    class Swapped(nf.flows.Flow):
        """Exchanges the directions: that of a density is otherwise the slow one of its MAF."""

        def __init__(self, part: torch.nn.Module) -> None:
            super().__init__()
            self.part = part

        def forward(self, z):
            return self.part.inverse(z)

        def inverse(self, z):
            return self.part.forward(z)

    def net(n: int, m: int) -> torch.nn.Module:
        made = mlp((n, *HIDDEN, m))
        made.forward = lambda x, context=None, run=made.forward: run(x)
        return made

    class Spline(nf.flows.Flow):
        def __init__(self, mask: torch.Tensor) -> None:
            super().__init__()
            self.part = PiecewiseRationalQuadraticCoupling(mask, net, BINS, tails="linear", tail_bound=BOUND)

        def forward(self, z):
            return self.part.inverse(z)

        def inverse(self, z):
            return self.part(z)

    layers = []
    for i in range(LAYERS[flow]):
        if flow == "maf":
            made = nf.flows.MaskedAffineAutoregressive(dim, HIDDEN[0], num_blocks=1, use_residual_blocks=False)
            layers.append(Swapped(made))
            layers.append(nf.flows.Permute(dim, mode="swap"))
        elif flow == "nsf":
            layers.append(Spline((torch.arange(dim) + i) % 2))
        else:
            layers.append(nf.flows.AffineCouplingBlock(mlp(sizes(flow, dim))))
            layers.append(nf.flows.Permute(dim, mode="swap"))
    base = nf.distributions.DiagGaussian(dim, trainable=False)
    return likelihood(nf.NormalizingFlow(base, layers), dim)


VARIANTS = {
    "floor": floor,
    "networks": networks,
    "ppl_flows": ours,
    "ppl_flows fit": partial(ours_fit, None),
    "ppl_flows fit, jit": partial(ours_fit, "jit"),
    "ppl_flows fit, inductor": partial(ours_fit, "inductor"),
    "pyro": pyro,
    "zuko": zuko,
    "zuko, torch.compile": partial(zuko, compiled=True),
    "nflows": nflows,
    "normflows": normflows,
}
