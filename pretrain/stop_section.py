"""Settings of early stopping, which early_stopping.py does."""

from neurochorus.data_shards.settings import at_least, settings


@settings
class StopSection:
    """When a stage ends before its steps are done; the weights that scored best on the valid split are kept. A stage
    that comes to its last step keeps the last ones, unless others were better by more than the standard error of the
    difference."""

    every: int = 50
    """Steps between evaluations; there is one before the first step too."""
    patience: int = 5
    """Evaluations in a row without a new best after which the stage ends."""
    batches: int = 16
    """Micro-batches of the valid split that are scored; smaller ones where it has fewer windows."""

    def problems(self) -> list[str]:
        return at_least(self, 1, "every", "patience") + at_least(self, 2, "batches")
