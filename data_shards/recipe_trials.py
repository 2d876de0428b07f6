"""Settings of the stretches of a long recording: its trials, and when it was recorded at all."""

from typing import Literal

from neurochorus.data_shards.expressions import expression_problems
from neurochorus.data_shards.settings import settings


@settings
class TrialsRecipe:
    """Cuts a continuous signal or spike times into trials: from start to stop, or a window around one event each."""

    table: str | None = None
    "Group or table that holds the arrays by trial, so that their keys can be short."
    start: str | None = None
    "Array (trials,) of times in s."
    stop: str | None = None
    "Array (trials,) of times in s."
    align: str | None = None
    "Array (trials,) of times in s, instead of start and stop: the event in each trial that window_s is around."
    window_s: list[float] | None = None
    "With align: from when to when around the event, such as [-0.2, 0.8]."
    where: str | None = None
    "Trials to keep, an expression over columns of the same table: correct == 1 and reaction_time < 2."
    overlap: Literal["drop", "refuse"] = "drop"
    """What happens to trials that overlap the one before or reach outside of what was recorded; dropped ones are
    counted."""

    def problems(self) -> list[str]:
        found = expression_problems("where", self.where)
        by_event = self.align is not None
        for name, given in (("start", self.start), ("stop", self.stop)):
            if (given is not None) == by_event:
                found.append(f"{name}: not used with align" if by_event else f"{name}: missing; or set align, window_s")
        if by_event != (self.window_s is not None):
            found.append("window_s: set it with align, and only with it")
        elif self.window_s is not None and not (len(self.window_s) == 2 and self.window_s[0] < self.window_s[1]):
            found.append(f"window_s: {self.window_s}; expected two times in s, the first before the second")
        return found


@settings
class ObservedRecipe:
    """Outside of these stretches nothing was recorded."""

    start: str
    "Array (stretches,) of times in s."
    stop: str
    "Array (stretches,) of times in s."
