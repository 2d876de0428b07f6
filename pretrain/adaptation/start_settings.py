"""How the rows of a new session begin, and what holds them."""

from typing import Literal

from neurochorus.data_shards.settings import at_least, settings

StartName = Literal["auto", "random", "regions", "aligned"]


@settings
class StartSection:
    method: StartName = "auto"
    """random: drawn at the spread of known rows. regions: what is expected of a unit of that region and rate. aligned:
    from the session's own factors, turned into those of the model (needs reference.safetensors in its directory).
    auto: of the last two, and several turns, the one under which the model as it is fits the session best."""
    rate_prior: bool = True
    """Shrink rates of new units to what pretraining says of their region, subject and session; false: by one spike."""
    row_prior: float = 1.0
    """Strength of the Gaussian prior of new rows in the fit: 1 is Bayes' rule, 0 none."""

    def problems(self) -> list[str]:
        return at_least(self, 0, "row_prior")
