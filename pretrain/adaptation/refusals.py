"""Data that a model must not be adapted to: what differs is named."""

from neurochorus.models import NeuralModel
from neurochorus.pretrain.covariates import refuse_other_widths
from neurochorus.pretrain.training_data import TrainingData


def refuse_other_recordings(model: NeuralModel, data: TrainingData) -> None:
    """Raise ValueError when the new sessions differ from the model's in modality, bin width or columns of a covariate.

    They may lack a covariate: it is then missing to the model, whose covariates keep the scale they were trained on.
    """
    first = model.registry.sessions[0]
    for entry in data.entries:
        if (entry.modality, entry.bin_s) != (first.modality, first.bin_s):
            raise ValueError(
                f"session {entry.session_id!r}: {entry.modality} in bins of {entry.bin_s:g} s; the model was trained "
                f"on {first.modality} in bins of {first.bin_s:g} s: set data.bin_s to that, or use another "
                "model"
            )
    refuse_other_widths(data.entries, model.config.dynamics.covariate_columns)


def refuse_known_sessions(model: NeuralModel, data: TrainingData) -> None:
    """Raise ValueError when the model knows a session already: with other units, or as the same recording."""
    for entry in model.registry.known_among(data.entries):
        model.registry.rows(entry)  # says in what another recording of that name differs
        raise ValueError(
            f"session {entry.session_id!r} is in the model already, with the same units: choose new sessions with "
            "data.sessions, or train on it again with replay"
        )
