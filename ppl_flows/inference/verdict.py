"""What a measure of a trained guide comes to: a grade, and a sentence. In nats."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ppl_flows.inference.kl_estimate import Estimate, ModesSeen

GOOD_KL, USABLE_KL = 0.05, 0.2
USABLE_MISSED = 0.1  # share of the posterior where the guide has next to no draws
USABLE_ESS = 0.1
ADVICE = "try quality='thorough', another flow, or another form of the model"


class Judgement(NamedTuple):
    """A guide's KL to the posterior, what its weights are worth, and what it misses.

    Attributes:
        kl, ess: as of ``FitResult``.
        missed: at least so much of the posterior lies where the guide has next to no draws.
        doubt: why it cannot be called good, whatever its KL; empty: nothing.
        modes: what looking for others has shown.
        advice: what to do where it is not to be trusted.
    """

    kl: Estimate
    ess: float
    missed: float
    doubt: str
    modes: ModesSeen
    advice: str = ADVICE

    @property
    def grade(self) -> str:
        """As of ``FitResult``."""
        if np.isnan(self.kl.mean):
            return "not judged"
        if self.kl.mean < GOOD_KL and not self.doubt:
            return "good"
        usable = self.kl.mean < USABLE_KL and self.ess >= USABLE_ESS and self.missed <= USABLE_MISSED
        return "usable after reweighting" if usable and not self.modes.missed else "do not trust"

    @property
    def sentence(self) -> str:
        """``FitResult.verdict``."""
        grade = self.grade
        if grade == "not judged":
            return "not judged: importance weights of a sub-sampled likelihood carry the noise of its minibatches"
        seen = f"KL {self.kl.mean:.3f} ± {self.kl.se:.3f} nats, effective sample size {self.ess:.0%} of the draws"
        seen = "; ".join([seen, *dict.fromkeys(note for note in (self.doubt, self.modes.words) if note)])
        if self.modes.missed:
            return f"do not trust: {seen}; try AutoFlow(model, modes='auto')"
        if grade == "do not trust":
            return f"do not trust: {seen}; {self.advice}"
        return f"good: {seen}" if grade == "good" else f"usable after reweighting, result.reweighted(n): {seen}"
