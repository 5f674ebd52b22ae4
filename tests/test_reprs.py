"""What a notebook shows: one line, with class, dims, layers and the number of parameters."""

import numpy as np
import pytest
from languages import SHORT, correlated

import ppl_flows as pf
import ppl_flows.numpyro as pfn
import ppl_flows.pyro as pfp
from ppl_flows.inference.density_results import AmortizedFit


@pytest.fixture
def shell(lang):
    return pfp if lang.AutoFlow is pfp.AutoFlow else pfn


def test_a_guide_says_whether_it_is_set_up_and_what_it_is_made_of(lang):
    guide = lang.AutoFlow(correlated(lang), lambda dim: pf.nsf(dim, flow_layers=1), start="init", quality="quick")
    assert repr(guide) == "AutoFlow(not set up yet, which its first call or fit does, quality='quick')"
    lang.set_up(guide)
    bijection = guide.transform.bijection if lang.AutoFlow is pfp.AutoFlow else guide._bijection
    assert repr(guide) == f"AutoFlow(2 latents, {bijection}, start='init', quality='quick')"
    assert "\n" not in repr(guide)
    assert "parameters" in repr(guide)


@pytest.mark.slow
def test_a_local_guide_says_so_too(lang, shell):
    def model():
        mu = lang.ppl.sample("mu", lang.dist.Normal(lang.array(0.0), 1.0))
        with lang.ppl.plate("rows", 4):
            lang.ppl.sample("z", lang.dist.Normal(mu, 1.0))

    guide = shell.AutoLocalFlow(model, "rows", start="init")
    assert repr(guide) == "AutoLocalFlow(not set up yet, which its first call or fit does, quality='standard')"
    lang.set_up(guide)
    assert repr(guide).startswith("AutoLocalFlow(1 global latents, 1 for each of 4 rows, Chain(1 dims, ")
    assert repr(guide).count("parameters") == 2
    assert "\n" not in repr(guide)


def test_flows_say_what_is_not_as_it_is_by_default(lang, shell):
    bijection = pf.maf(2, flow_layers=1)
    assert repr(shell.Flow(bijection)) == f"Flow({bijection})"
    assert repr(shell.FlowTransform(bijection)) == f"FlowTransform({bijection})"
    assert repr(shell.Flow(bijection, base=pf.StudentT(2))) == f"Flow({bijection}, base={pf.StudentT(2)})"
    other = lang.dist.Uniform(lang.array(np.zeros(2)), 1.0).to_event(1)
    assert repr(shell.Flow(bijection, base=other)) == f"Flow({bijection}, base=Uniform)"
    assert "support=" in repr(shell.Flow(bijection, support=lang.dist.constraints.simplex))
    batch = shell.Flow(pf.Batched(bijection, batch=(3,)))
    assert repr(batch).endswith("batch_shape=(3,))")
    assert repr(shell.BaseDistribution(pf.StudentT(2))) == f"BaseDistribution({pf.StudentT(2)})"


def test_results_say_what_came_out(lang, shell):
    result = lang.fit(correlated(lang), lang.autoguide.AutoNormal(correlated(lang)), **(SHORT | {"steps": 20}))
    assert repr(result).startswith(
        f"FitResult(elbo={result.elbo.mean:.3f} ± {result.elbo.se:.3f} nats after 20 steps; "
    )
    assert result.verdict in repr(result)
    data = lang.array(np.random.default_rng(0).normal(size=(50, 2)))
    fitted = shell.fit_density(pf.maf(2, flow_layers=1), data, steps=20, progress=False)
    assert repr(fitted) == f"DensityFit({fitted.bijection}, loss={fitted.losses[-2:].mean():.3f} nats per row)"
    amortized = AmortizedFit(fitted, lambda *_: {})
    assert repr(amortized).startswith(f"AmortizedFit({fitted.bijection}, loss=")
    assert all("\n" not in repr(r) for r in (result, fitted, amortized))
