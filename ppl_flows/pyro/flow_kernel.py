"""``FlowKernel``: the moves of ``result.exact`` as a kernel of Pyro's ``MCMC``."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch.distributions import Transform, biject_to

from ppl_flows.inference.exact import start_chains
from ppl_flows.inference.flow_chains import Chains
from ppl_flows.inference.kernel_arguments import FittedModel, trained_guide
from ppl_flows.inference.one_at_a_time import one_at_a_time
from ppl_flows.inference.results import FitResult


class FlowKernel(MCMCKernel):
    """Moves in the base space of a fitted flow: its draws as proposals, and circles that gradients bend.

    Each chain starts at one of 32 draws of the guide, taken by their weights; the warm-up adapts the angle of the
    moves. A move costs one gradient. The host's ``MCMC`` judges the chains as it does all others: ``result.exact`` also
    looks for what the guide lacks.

    Args:
        result: of ``fit`` with an ``AutoFlow``.

    Raises:
        TypeError: the result is none of ``fit``, or its guide is no ``AutoFlow``.
        ValueError: a plate was sub-sampled; at the start: arguments of the model that are not those of the fit.

    Example:
        >>> import pyro, pyro.distributions as dist, ppl_flows as pf
        >>> from ppl_flows.pyro import AutoFlow, FlowKernel, fit
        >>> pyro.clear_param_store()
        >>> model = lambda: pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> result = fit(model, AutoFlow(model, pf.TriangularAffine), steps=2, draws=100, progress=False)
        >>> mcmc = pyro.infer.MCMC(FlowKernel(result), num_samples=5, disable_progbar=True)
        >>> mcmc.run(); mcmc.get_samples()["z"].shape
        torch.Size([5])
    """

    def __init__(self, result: FitResult) -> None:
        self._fitted = trained_guide(result)
        bound = self._fitted.model
        self.model = FittedModel(bound.func, bound.args, bound.keywords)
        self._chains: Chains | None = None
        self._warmup = self._moves = 0
        self._acceptance = 0.0
        self._divergences: list[int] = []

    @property
    def transforms(self) -> dict[str, Transform]:
        """Of each latent site, from its support to real numbers."""
        return {name: biject_to(support).inv for name, support in self._fitted.supports.items()}

    @one_at_a_time
    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        """Starts a chain, with so many ``warmup_steps``; the model's arguments are none, or those of the fit."""
        self.model.check(args, kwargs)
        rng = np.random.default_rng(int(torch.randint(2**62, ()).item()))
        with self._fitted.base_space() as space:
            self._chains, _ = start_chains(space, 1, rng)
        self._warmup, self._moves, self._acceptance, self._divergences = warmup_steps, 0, 0.0, []

    @property
    def initial_params(self) -> dict[str, torch.Tensor]:
        """The unconstrained values where the chain is."""
        with self._fitted.evaluated():
            return self._values()

    @initial_params.setter
    def initial_params(self, params: dict[str, torch.Tensor]) -> None:
        raise ValueError("FlowKernel starts at draws of its guide; leave out initial_params.")

    @one_at_a_time
    def sample(self, params: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Moves on from where the chain is, which is at ``params``."""
        chains = self._started()
        with self._fitted.evaluated():
            rate = float(chains.run(1, adapt=self._moves < self._warmup).acceptance[0, 0])
            self._moves += 1
            if rate == 0 and self._moves > self._warmup:
                self._divergences.append(self._moves - self._warmup - 1)
            counted = self._moves - (self._warmup if self._moves > self._warmup else 0)
            self._acceptance += (rate - self._acceptance) / counted
            return self._values()

    def _started(self) -> Chains:
        if self._chains is None:
            raise RuntimeError("FlowKernel: no chain was started; give the kernel to pyro.infer.MCMC.")
        return self._chains

    def _values(self) -> dict[str, torch.Tensor]:
        chains, guide = self._started(), self._fitted.guide.func
        latent = torch.as_tensor(chains.space.to_latents(chains.z, chains.flow)[0]).to(guide.get_base_dist().mean)
        return {site["name"]: value for site, value in guide._unpack_latent(latent)}

    def logging(self) -> OrderedDict[str, str]:
        """What the host's progress bar shows."""
        angle = self._started().angle
        return OrderedDict([("angle", f"{angle:.2e}"), ("acc. prob", f"{self._acceptance:.3f}")])

    def diagnostics(self) -> dict[str, Any]:
        """Of the moves after the warm-up: which could not be accepted, and the mean probability of acceptance."""
        return {"divergences": self._divergences, "acceptance rate": self._acceptance}
