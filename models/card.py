"""The model card: README.md of a model directory, written at every export."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from neurochorus.models.adaptation_card import adaptation_section

if TYPE_CHECKING:
    from neurochorus.models.dynamics import DynamicsConfig
    from neurochorus.models.model import NeuralModel


_READ = {"ahead": "read up to the predicted bin", "past": "read up to the bin before the predicted one"}


def _dynamics(config: "DynamicsConfig", head: str) -> str:
    match config.order:
        case "causal":
            kind = f"a causal {'transformer' if config.backbone == 'transformer' else 'recurrent network (GRU)'}"
        case "masked":
            kind = "a masked transformer"
        case "diffusion":
            return "a diffusion model of whole windows of its latents"
    tokens = f", {config.patch_bins} bins to a token," if config.patch_bins > 1 else ""
    return f"{kind} over its latents{tokens} with the `{head}` head"


def model_card(model: "NeuralModel", training: Mapping[str, Any]) -> str:
    """Markdown that says what the model is, what it was trained on and how to use it."""
    registry = model.registry
    first = registry.sessions[0]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    rows = "\n".join(
        f"| {session.session_id} | {session.subject_id} | {len(session.unit_ids)} |" for session in registry.sessions
    )
    facts = "\n".join(f"- {name}: {value}" for name, value in training.items() if name != "adaptation")
    facts = facts or "- not recorded"
    config = model.config
    bins = "bins" if config.autoencoder.causal else "0 bins"
    encoder = "a causal autoencoder" if config.autoencoder.causal else "an autoencoder that sees both ways"
    forecasts = (
        "Forecasts are free-running samples of the latents; the slow rate of each unit is held at its value at the\n"
        "end of the context. Use the mean over samples for bits/spike."
        if config.autoencoder.causal
        else "It cannot forecast, as its encoder reads the bins after a bin too: it generates from contexts of 0 bins."
    )
    dynamics = config.dynamics
    covariates = "\n".join(
        f"- {name}: {covariate.columns} columns, {_READ[covariate.known]}, {covariate.lag_bins} bins back"
        for name, covariate in dynamics.covariates.items()
    )
    return f"""# A neurochorus model

Generative model of neural population activity: {encoder} ({config.autoencoder.latents} latents) and
{_dynamics(dynamics, config.head)}. {parameters:,} parameters, {registry.total_rows - 1:,} units of
{len(registry.sessions)} sessions and {len(registry.subjects)} subjects, {first.modality} in {first.bin_s:g} s bins.

```python
from neurochorus.models import load

model = load("THIS DIRECTORY")
context = model.context("{first.session_id}", counts)  # array (trials, {bins}, {len(first.unit_ids)} units)
rollout = model.rollout(context, horizon=10, samples=32)
rollout.expected_rate  # (trials, 10, units), counts per bin
```

Units are known by id (`sessions.json`), not by position. Another recording, of the same animal or a new one, has to be
added first: `python launch/finetune.py --model THIS DIRECTORY --data DATA --sessions ...`.

## Covariates

{covariates or "None."}

## Training

{facts}

{adaptation_section(training["adaptation"]) if training.get("adaptation") else ""}## Sessions

| session | subject | units |
|---|---|---|
{rows}

## Limits

{forecasts}
Nothing was checked on units, bin widths or species not listed here.
"""
