"""What the tables of results_lorenz.py hold: trained models (runs) and ways to generate with them (rows)."""

from dataclasses import dataclass

FIRST = "energy"
"The run that trains the autoencoder; the others take it over. Their settings are in configs/lorenz/RUN.yaml."
SLOWEST = "diffusion, DDPM 1000 steps"
"Speeds are told as multiples of this row's."


@dataclass(frozen=True)
class Row:
    """A row of a table: the run whose model generates, and how it samples."""

    file: str
    title: str
    run: str
    sampling: tuple[str, ...] = ()


def _diffusion(sampler: str, steps: int) -> tuple[str, ...]:
    return f"dynamics.diffusion.sampler={sampler}", f"dynamics.diffusion.sampling_steps={steps}"


def _flow(solver: str, steps: int) -> tuple[str, ...]:
    return f"heads.flow.solver={solver}", f"heads.flow.steps={steps}"


ROWS = (
    Row("energy", "energy", "energy"),
    Row("flow", "flow", "flow"),
    Row("gaussian", "gaussian", "gaussian"),
    Row("masked", "energy, masked order, K = 32 (EAG)", "masked"),
    Row("ddpm", SLOWEST, "diffusion", _diffusion("ddpm", 1000)),
    Row("ddim", "diffusion, DDIM 50 steps", "diffusion", _diffusion("ddim", 50)),
)

ABLATION_ROWS = (
    Row("two_samples", "energy, N = 2 samples in the loss", "two_samples"),
    Row("energy", "energy, N = 4, levels, history noise 0.01 (as in the protocol)", "energy"),
    Row("eight_samples", "energy, N = 8", "eight_samples"),
    Row("score_alone", "energy score alone, without the CRPS of each channel", "score_alone"),
    Row("increment", "energy, increments", "increment"),
    Row("no_history_noise", "energy, no history noise", "no_history_noise"),
    Row("masked", "energy, masked order, K = 32 (EAG)", "masked"),
    Row("langevin", "langevin", "langevin"),
    Row("masked_spread", "the same, sampled coarse to fine", "masked", ("dynamics.masked.order=spread",)),
    Row("masked_wide", "masked order, all mask ratios, coarse to fine", "masked_wide"),
    *(Row(f"flow{n}", f"flow, euler, {n} step{'s' * (n > 1)}", "flow", _flow("euler", n)) for n in (1, 2, 4, 8)),
    *(Row(f"midpoint{n}", f"flow, midpoint, {n} steps ({2 * n} calls)", "flow", _flow("midpoint", n)) for n in (1, 2)),
    Row("flow", "flow, midpoint, 4 steps (8 calls, as in the protocol)", "flow"),
    Row("standard8", "flow from N(0, 1), euler, 8 steps", "flow_standard"),
    Row("standard4", "flow from N(0, 1), midpoint, 4 steps", "flow_standard", _flow("midpoint", 4)),
    *(
        Row(f"shortcut{n}", f"flow, shortcut, {n} step{'s' * (n > 1)}", "shortcut", (f"heads.flow.steps={n}",))
        for n in (1, 2, 4)
    ),
)
