"""Our Glow beside that of normflows on the digits: the same split, steps, batches, schedule and number of parameters.

``pip install normflows`` first (the extra ``bench``). Takes about ten minutes on one core.
"""

import argparse

import normflows as nf
import numpy as np
import torch
from sklearn.datasets import load_digits

import ppl_flows as pf
from ppl_flows.core.params import flatten
from ppl_flows.inference.schedule import learning_rate
from ppl_flows.pyro import fit_density

LEVELS, BLOCKS, SHAPE, GREYS = 2, 8, (8, 8, 1), 17
BATCH, LR, CLIP = 128, 2e-3, 10.0


def theirs(hidden: int) -> nf.MultiscaleFlow:
    bases, merges, flows = [], [], []
    for i in range(LEVELS):
        channels, side = 2 ** (LEVELS + 1 - i), 8 // 2 ** (LEVELS - i)
        flows.append([nf.flows.GlowBlock(channels, hidden) for _ in range(BLOCKS)] + [nf.flows.Squeeze()])
        if i > 0:
            merges.append(nf.flows.Merge())
        latents = channels if i == 0 else channels // 2
        bases.append(nf.distributions.DiagGaussian((latents, side, side)))
    return nf.MultiscaleFlow(bases, flows, merges, transform=nf.transforms.Logit(0.05))


def size(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def channels_first(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 3, 1, 2)


def bits(log_prob, test: torch.Tensor) -> float:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        draws = [log_prob((test + torch.rand(test.shape, generator=generator)) / GREYS) for _ in range(10)]
    return float(pf.bits_per_dim(torch.stack(draws).mean(), SHAPE, GREYS))


def train_theirs(model: nf.MultiscaleFlow, images: torch.Tensor, steps: int) -> None:
    optimiser = torch.optim.Adam(model.parameters(), lr=LR, betas=(0.9, 0.99))
    for step in range(steps):
        rows = torch.randperm(len(images))[:BATCH]
        loss = -model.log_prob((images[rows] + torch.rand_like(images[rows])) / GREYS, None).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.param_groups[0]["lr"] = LR * float(learning_rate(step, steps, np))
        optimiser.step()


def main(steps: int = 2_000, seeds: int = 1, hidden: int = 64) -> None:
    bijection = pf.Chain([pf.glow(SHAPE, scales=LEVELS, flow_layers=BLOCKS, hidden=hidden), pf.LogitTransform(SHAPE)])
    images = torch.tensor(load_digits().images[..., None], dtype=torch.float32)
    order = np.random.default_rng(0).permutation(len(images))
    test, train = images[order[:360]], images[order[360:]]
    wanted = sum(a.size for _, a in flatten(bijection.init(np.random.default_rng(0))))
    width = min(range(8, 256), key=lambda h: abs(size(theirs(h)) - wanted))
    for seed in range(seeds):
        fit = fit_density(bijection, train, levels=GREYS, steps=steps, batch_size=BATCH, lr=LR, clip=CLIP, seed=seed)
        torch.manual_seed(seed)
        model = theirs(width)
        train_theirs(model, channels_first(train), steps)
        ours = bits(fit.flow.log_prob, test)
        other = bits(lambda x, model=model: model.log_prob(channels_first(x), None), test)
        print(f"seed {seed}: ppl_flows {ours:.3f} bits/dim ({wanted} parameters), ", end="")
        print(f"normflows {other:.3f} ({size(model)} parameters, width {width})", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--hidden", type=int, default=64, help="channels of our residual networks")
    main(**vars(parser.parse_args()))
