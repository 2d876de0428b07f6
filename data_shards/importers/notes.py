"""What an import left out and what it found odd, for the provenance of a recording."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Notes:
    """`facts` are entries of the provenance, `dropped` numbers of what was left out, by what it was and why."""

    facts: dict[str, Any] = field(default_factory=dict)
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)

    def drop(self, what: str, why: str, count: int) -> None:
        """Record that `count` of `what` (units, spikes, trials, bins, ...) are left out; nothing if there are none."""
        if count:
            reasons = self.dropped.setdefault(what, {})
            reasons[why] = reasons.get(why, 0) + int(count)

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)

    def provenance(self) -> dict[str, Any]:
        """Return the entries for a recording's provenance, as plain values."""
        found = dict(self.facts)
        if self.dropped:
            found["dropped"] = {what: dict(reasons) for what, reasons in self.dropped.items()}
        if self.sentences:
            found["notes"] = list(self.sentences)
        return found
