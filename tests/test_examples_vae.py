"""The examples of a variational auto-encoder with flows run and learn."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.long
@pytest.mark.parametrize("language", ["pyro", "numpyro"])
def test_training_takes_every_elbo_above_that_of_any_model_without_latents(language, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(EXAMPLES / language))
    vae = __import__("vae")
    try:
        train, test = (np.asarray(images) for images in vae.load())
        elbos = vae.main(steps=200, latent=8, hidden=64, lr=1e-2)
    finally:
        sys.modules.pop("vae")
    share = (train.mean(0) + 0.01) / (vae.MAX_GREY + 0.02)  # some pixels have always been 0
    without_latents = binom(vae.MAX_GREY, share).logpmf(test).sum(-1).mean()  # -251; untrained models come to -500
    printed = capsys.readouterr().out
    assert list(elbos) == ["diagonal", "iaf", "iaf + flow prior"]
    for name, elbo in elbos.items():
        assert without_latents + 80 < elbo < 0, name
        assert f"{name}: {elbo:.2f} nats per image\n" in printed
    assert elbos["iaf + flow prior"] > elbos["iaf"] + 2.0, "a prior that does not train moves it by 0.2"


def test_the_examples_are_twins():
    """Only the imports, the arrays, the networks and where the parameters are kept differ."""
    pyro_lines, numpyro_lines = (
        (EXAMPLES / host / "vae.py").read_text().replace("numpyro", "pyro").splitlines() for host in ("pyro", "numpyro")
    )
    assert len(set(pyro_lines) & set(numpyro_lines)) > 0.6 * len(set(pyro_lines))
