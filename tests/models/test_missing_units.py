"""A known session of which not all units were recorded again."""

import pytest
import torch

from neurochorus.models.missing_units import accept_missing_units, missing_units_note
from tests.models.conftest import entry, small_model

HERE = [0, 2, 3, 5, 6]


@pytest.mark.parametrize("modality", ["spikes", "continuous"])
def test_the_others_are_read_as_if_the_missing_ones_were_hidden_in_training(
    counts: torch.Tensor, modality: str
) -> None:
    """Once by leaving columns out, once by the factors that dropout uses: 0 for a hidden unit, 1 / share for others."""
    model = small_model(modality=modality)
    with torch.no_grad():
        model.autoencoder.unit_sd[1:] = 0.4
    signal = counts if modality == "spikes" else counts.float()
    fewer = model.context("b_s1", signal[:, :, HERE].numpy(), [f"u{unit}" for unit in HERE])
    assert fewer.units_missing
    whole = model.context("b_s1", signal.numpy())
    assert not whole.units_missing
    units = model.autoencoder.units(whole.unit_rows_BC)
    keep = torch.zeros(8)
    power = units.mean_BC[0] if modality == "spikes" else torch.ones(8)
    keep[HERE] = power.sum() / power[HERE].sum()
    hidden = model.autoencoder.encode(signal, units, whole.session_B, keep.expand(3, 20, 8))
    torch.testing.assert_close(model.encode(fewer), model.whitening(hidden), rtol=1e-4, atol=1e-5)
    assert model.rollout(fewer, 4, 2).rates.shape == (2, 3, 4, 5)
    assert torch.isfinite(model.reconstruct(fewer)).all()


def test_imputation_reads_the_units_at_hand_as_the_encoder_does(counts: torch.Tensor) -> None:
    model = small_model()
    here = model.context("b_s1", counts[:, :, HERE].numpy(), [f"u{unit}" for unit in HERE])
    made = model.impute(here, torch.ones(3, 20, len(HERE), dtype=torch.bool), samples=1)
    torch.testing.assert_close(made.latents[0], model.encode(here), rtol=1e-4, atol=1e-5)


def test_a_data_set_that_lacks_units_is_taken_only_when_it_is_asked_for() -> None:
    model = small_model()
    fewer = entry("b_s1", "b", 6)
    with pytest.raises(ValueError, match=r"6 units in the data and 8 in the model 2 only in the model \(u6, u7\)"):
        model.registry.rows(fewer)
    assert accept_missing_units(model, [fewer, entry("a_s1", "a", 5)]) == {"b_s1": 2}
    assert model.registry.rows(fewer).tolist() == [6, 7, 8, 9, 10, 11]
    assert missing_units_note("b_s1", 2, 8) == (
        "session b_s1: 2 of the 8 units that the model knows are not in the data"
    )
    with pytest.raises(ValueError, match=r"1 only in the data \(u8\)"):
        model.registry.rows(entry("b_s1", "b", 9))
    with pytest.raises(ValueError, match="of subject 'c'"):
        model.registry.rows(entry("b_s1", "c", 6))
    assert model.registry == small_model().registry, "what may be missing is a use of a model, not part of it"
