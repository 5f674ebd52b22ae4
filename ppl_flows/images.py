"""What images need besides a flow."""

from __future__ import annotations

import math

from ppl_flows.core.types import Array


def bits_per_dim(log_prob: Array, shape: tuple[int, ...], levels: int) -> Array:
    """Bits per dimension of integer images whose density is known for ``(image + noise) / levels``.

    With uniform noise from [0, 1), or with the ELBO of learned noise in place of the log density, it bounds the bits
    that a lossless code of the image needs, from above: average it over noise.

    Args:
        log_prob: log density at ``(image + noise) / levels``, in nats, any shape.
        shape: of one image.
        levels: number of levels per pixel, 256 for bytes.

    Returns:
        An array like log_prob, in bits.

    Example:
        >>> import math, ppl_flows as pf
        >>> pf.bits_per_dim(-784 * math.log(2.0), shape=(28, 28, 1), levels=256)  # of -784 bits
        9.0

    Reference: Theis et al. (2016), A note on the evaluation of generative models, arXiv:1511.01844, sec. 3.1.
    """
    return math.log2(levels) - log_prob / (math.log(2) * math.prod(shape))
