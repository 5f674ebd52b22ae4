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
        for name in ("fit", "fit_density", "fit_amortized"):
            setattr(shell, name, capped(getattr(shell, name)))
