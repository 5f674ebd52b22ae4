"""ppl_flows in NumPyro. ``ppl_flows.pyro`` has the same names."""

from ppl_flows.inference.density_results import AmortizedFit, DensityFit
from ppl_flows.inference.exact_draws import ExactDraws, ExactError
from ppl_flows.inference.fit_error import FitError
from ppl_flows.inference.learned_likelihood import LikelihoodFit
from ppl_flows.inference.results import FitResult
from ppl_flows.numpyro import scanned_flow as _scanned_flow  # noqa: F401  which the host is told of
from ppl_flows.numpyro import transforms
from ppl_flows.numpyro.amortized import fit_amortized
from ppl_flows.numpyro.amortized_files import load_amortized
from ppl_flows.numpyro.base_distribution import BaseDistribution
from ppl_flows.numpyro.calibrate import calibrate
from ppl_flows.numpyro.density import fit_density
from ppl_flows.numpyro.density_files import load_density
from ppl_flows.numpyro.distribution import Flow
from ppl_flows.numpyro.fit import fit
from ppl_flows.numpyro.flow_kernel import FlowKernel
from ppl_flows.numpyro.flow_sites import flow, random_flow
from ppl_flows.numpyro.guide import AutoFlow
from ppl_flows.numpyro.joint_prior import JointPrior
from ppl_flows.numpyro.learned_likelihood import load_likelihood
from ppl_flows.numpyro.likelihood import fit_likelihood
from ppl_flows.numpyro.local_guide import AutoLocalFlow
from ppl_flows.numpyro.transform import FlowTransform

__all__ = [
    "AmortizedFit",
    "AutoFlow",
    "AutoLocalFlow",
    "BaseDistribution",
    "DensityFit",
    "ExactDraws",
    "ExactError",
    "FitError",
    "FitResult",
    "Flow",
    "FlowKernel",
    "FlowTransform",
    "JointPrior",
    "LikelihoodFit",
    "calibrate",
    "fit",
    "fit_amortized",
    "fit_density",
    "fit_likelihood",
    "flow",
    "load_amortized",
    "load_density",
    "load_likelihood",
    "random_flow",
    "transforms",
]
