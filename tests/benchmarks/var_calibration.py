"""Calibration of each head's free-running samples on the driven VAR(1) of tests/models/test_var_closed_form.py.

python -m tests.benchmarks.var_calibration [--heads energy flow] [--steps 2000] [--seeds 0 1 2]

Contexts and what follows them come from the process itself, so a perfect model covers exactly the level at every lead.
"""

from argparse import ArgumentParser

import numpy as np
import torch

from neurochorus.pretrain.evaluation.calibration import LEVELS, EnsembleScores, coverage, ensemble_scores, spread_skill
from tests.models.test_var_closed_form import CONTEXT, random_drive, sequence, simulate, trained

LEADS = 10
BURN_IN = 40


def scores(head: str, steps: int, seed: int, contexts: int, samples: int) -> EnsembleScores:
    """How samples of LEADS bins fare against what the process did."""
    dynamics = trained(head, steps=steps, seed=seed)
    generator = torch.Generator().manual_seed(11)
    drive_BTK = random_drive(contexts, BURN_IN + CONTEXT + LEADS, generator)
    latent_BTL = simulate(drive_BTK, generator)[:, BURN_IN:]
    context = sequence(latent_BTL[:, :CONTEXT], drive_BTK[:, BURN_IN:])
    drawn_BSHL = dynamics.simulate(context, LEADS, samples, torch.Generator().manual_seed(2))
    return ensemble_scores(latent_BTL[:, CONTEXT:].numpy(), drawn_BSHL.transpose(0, 1).numpy())


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--heads", nargs="+", default=["energy", "flow", "gaussian", "langevin"])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--contexts", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=99)
    options = parser.parse_args()
    print(f"{options.steps} steps, {options.contexts} contexts, {options.samples} samples, leads 1 to {LEADS}")
    print(f"| head | seed | {' | '.join(f'{level:.0%}' for level in LEVELS)} | 90 % by lead | spread / error | CRPS |")
    print("|---" * (5 + len(LEVELS)) + "|")
    for head in options.heads:
        for seed in options.seeds:
            found = scores(head, options.steps, seed, options.contexts, options.samples)
            by_lead_HR = found.rank_NHR.mean(axis=0)
            overall = " | ".join(f"{coverage(by_lead_HR, level).mean():.3f}" for level in LEVELS)
            ninety_H = coverage(by_lead_HR, 0.9)
            ratio_H = spread_skill(found.variance_NH.mean(axis=0), found.squared_error_NH.mean(axis=0), options.samples)
            range_of_90 = f"{ninety_H.min():.3f} to {ninety_H.max():.3f}"
            cells = f"{range_of_90} | {np.mean(ratio_H):.3f} | {found.crps_NH.mean():.4f}"
            print(f"| {head} | {seed} | {overall} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
