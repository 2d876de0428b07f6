"""How each method is drawn in every chart of the page: colour by head, dashes where there are more than colours."""

from collections.abc import Sequence

from neurochorus.pretrain.evaluation.picture_style import METHODS, method_colours
from neurochorus.pretrain.evaluation.score_comparison import is_learned
from neurochorus.pretrain.reporting.charts import DASHES, MUTED, Key


def method_keys(names: Sequence[str], learned: Sequence[str] | None = None) -> dict[str, Key]:
    """A legend entry for each name; methods without a network are grey and told apart by their dashes."""
    learned = [name for name in names if is_learned(name)] if learned is None else learned
    colours = method_colours(learned)
    keys = {}
    for name in names:
        if name in colours:
            place = list(colours).index(name)
            dash = "dash" if "recalibrated" in name else DASHES[place // len(METHODS) % len(DASHES)]
            keys[name] = Key(name, colours[name], dash)
        else:
            place = sum(key.colour == MUTED for key in keys.values())
            keys[name] = Key(name, MUTED, DASHES[(place + 1) % len(DASHES)])
    return keys
