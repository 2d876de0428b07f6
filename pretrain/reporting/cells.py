"""Cells of tables that several sections share."""

from neurochorus.pretrain.reporting.html_page import Cell, number


def whole(value: object) -> Cell:
    """A whole number with thousands set apart, an en dash for anything else."""
    return Cell(f"{value:,}", value) if isinstance(value, int) else Cell("–")


def with_error(mean: float, error: float, digits: int = 4, signed: bool = False) -> str:
    """A mean and, where it is defined, its error."""
    text = number(mean, digits, signed=signed).text
    return text if error != error else f"{text} ± {number(error, digits).text}"


def probability(value: float) -> Cell:
    """A p value, as a bound where it is small."""
    return Cell("< 0.0001", value) if value < 1e-4 else number(value)
