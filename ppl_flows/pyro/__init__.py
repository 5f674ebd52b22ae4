"""ppl_flows in Pyro. ``ppl_flows.numpyro`` has the same names."""

from ppl_flows.inference.density_results import AmortizedFit, DensityFit
from ppl_flows.inference.exact_draws import ExactDraws, ExactError
from ppl_flows.inference.fit_error import FitError
from ppl_flows.inference.learned_likelihood import LikelihoodFit
from ppl_flows.inference.results import FitResult
from ppl_flows.pyro import transforms
from ppl_flows.pyro.amortized import fit_amortized
from ppl_flows.pyro.amortized_files import load_amortized
from ppl_flows.pyro.base_distribution import BaseDistribution
from ppl_flows.pyro.calibrate import calibrate
from ppl_flows.pyro.density import fit_density
from ppl_flows.pyro.density_files import load_density
from ppl_flows.pyro.distribution import Flow
from ppl_flows.pyro.fit import fit
from ppl_flows.pyro.flow_kernel import FlowKernel
from ppl_flows.pyro.flow_sites import flow, random_flow
from ppl_flows.pyro.guide import AutoFlow
from ppl_flows.pyro.joint_prior import JointPrior
from ppl_flows.pyro.learned_likelihood import load_likelihood
from ppl_flows.pyro.likelihood import fit_likelihood
from ppl_flows.pyro.local_guide import AutoLocalFlow
from ppl_flows.pyro.transform import FlowTransform

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
