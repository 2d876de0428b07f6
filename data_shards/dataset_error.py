"""The one error of everything that reads data sets."""

from collections.abc import Iterable


class DatasetError(ValueError):
    """Something is wrong with a data set; `problems` has a line for each when several are known."""

    def __init__(self, message: str, problems: Iterable[str] = ()):
        self.problems = list(problems)
        super().__init__("\n".join([message, *(f"  - {problem}" for problem in self.problems)]))
