"""Ctrl-C during a fit, in both languages: what there is comes back, and a second one raises."""

import os
import signal

import numpy as np
import pytest
from languages import correlated, identity_flow

import ppl_flows as pf
import ppl_flows.numpyro
import ppl_flows.pyro
from ppl_flows.inference.interrupts import Pieces, StopOnInterrupt

LONG = {"steps": 2_000, "num_particles": 4, "draws": 100, "progress": False}


def interrupt_after(calls, times=1):
    """A callback that presses Ctrl-C in its so-many-th call."""
    seen = []

    def callback(step, loss, params):
        seen.append(step)
        if len(seen) == calls:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)

    return callback


@pytest.mark.slow_in_numpyro
def test_an_interrupted_fit_returns_what_there_is(lang, capsys):
    model = correlated(lang)
    guide = lang.AutoFlow(model, identity_flow, start="init")
    result = lang.fit(model, guide, tolerance=None, callback=interrupt_after(3), **LONG)
    assert result.interrupted
    assert len(result.losses) == 300
    assert "interrupted" in repr(result)
    assert result.verdict
    assert result.sample(5)["z"].shape == (5, 2)
    assert "once more to raise" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    whole = lang.fit(model, guide, tolerance=None, **LONG)
    assert not whole.interrupted
    assert len(whole.losses) == 2_000


def test_a_second_interrupt_ends_a_loop_of_fits(lang):
    model = correlated(lang)
    guide = lang.AutoFlow(model, identity_flow, start="init")
    with pytest.raises(KeyboardInterrupt):
        lang.fit(model, guide, callback=interrupt_after(1, times=2), **LONG)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupted_density_is_one_too(lang):
    shell = {"pyro": ppl_flows.pyro, "numpyro": ppl_flows.numpyro}[lang.ppl.__name__]
    data = lang.array(np.random.default_rng(0).standard_normal((50, 2)))
    fitted = shell.fit_density(
        pf.maf(2, flow_layers=1, hidden=(4,)), data, steps=200, callback=interrupt_after(2), progress=False
    )
    assert fitted.interrupted
    assert len(fitted.losses) == 20


def test_a_handler_of_the_users_own_is_left_alone():
    own = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        mine = signal.getsignal(signal.SIGINT)
        with StopOnInterrupt() as interrupt:
            assert signal.getsignal(signal.SIGINT) is mine
            os.kill(os.getpid(), signal.SIGINT)
        assert not interrupt.requested
    finally:
        signal.signal(signal.SIGINT, own)


def test_pieces_end_with_their_blocks():
    pieces, done, ends = Pieces(100), 0, []
    while done < 250:
        done = pieces.end(done, 250)
        ends.append(done)
        pieces.ended()
    assert {100, 200, 250} <= set(ends)
    assert ends[:3] == [6, 18, 42], "while they are fast they double"
