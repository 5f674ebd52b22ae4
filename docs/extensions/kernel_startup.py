"""Runs in every kernel of the docs: pictures sharp enough for a phone, and few steps where ``DOCS_STEPS`` says so."""

import functools
import importlib
import os
import warnings

get_ipython().run_line_magic("config", "InlineBackend.figure_formats = ['retina']")  # noqa: F821  IPython's name
warnings.filterwarnings("ignore", category=FutureWarning, module="arviz")  # it announces its next version

if "DOCS_STEPS" in os.environ:
    MOST = int(os.environ["DOCS_STEPS"])

    def capped(fit):
        @functools.wraps(fit)
        def few_steps(*args, steps=MOST, **options):
            return fit(*args, steps=min(steps, MOST), **options)

        return few_steps

    for language in ("pyro", "numpyro"):
        shell = importlib.import_module(f"ppl_flows.{language}")
        for name in ("fit", "fit_density", "fit_amortized", "fit_likelihood"):
            setattr(shell, name, capped(getattr(shell, name)))

    from ppl_flows.inference.results import FitResult

    as_prior = FitResult.as_prior

    @functools.wraps(as_prior)
    def prior_of_a_short_fit(self, *args, **options):
        """Such a fit has no good verdict."""
        return as_prior(self, *args, **{"reweighted": False, "steps": MOST} | options)

    FitResult.as_prior = prior_of_a_short_fit

    def short_chain(mcmc):
        def chain(kernel, *, num_samples, **options):
            warmup = {name: min(n, 50) for name, n in options.items() if name in ("num_warmup", "warmup_steps")}
            return mcmc(kernel, num_samples=min(num_samples, 50), **options | warmup)

        return chain

    for module in map(importlib.import_module, ("pyro.infer", "numpyro.infer")):
        module.MCMC = short_chain(module.MCMC)
