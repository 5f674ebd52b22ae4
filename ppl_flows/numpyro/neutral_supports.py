"""Supports of NumPyro in words that both languages have."""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
from numpyro.distributions import constraints
from numpyro.distributions.transforms import biject_to

from ppl_flows.files import to_numpy
from ppl_flows.inference.neutral_supports import NeutralSupports

SUPPORTS = NeutralSupports("NumPyro", constraints, biject_to, to_numpy, partial(jnp.asarray, dtype=float))
