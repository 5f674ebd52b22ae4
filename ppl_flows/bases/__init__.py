"""Base distributions that train with their flow, one paper one file."""

from ppl_flows.bases.diagonal_normal import DiagonalNormal
from ppl_flows.bases.normal_mixture import NormalMixture
from ppl_flows.bases.resampled_normal import ResampledNormal
from ppl_flows.bases.student_t import StudentT

__all__ = ["DiagonalNormal", "NormalMixture", "ResampledNormal", "StudentT"]
