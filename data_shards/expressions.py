"""Conditions over columns, such as `quality == 'good' and firing_rate > 0.1`; never evaluated as code.

An expression is parsed with `ast` and only these are known: names of columns, text, numbers and lists of them,
comparisons, `in`, `and`, `or`, `not`, and + - * /. A comparison with NaN is false, except `!=`.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

LONGEST = 2000  # characters: ast.parse takes memory and stack by the length of what it is given
ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
NODES = (
    *ARITHMETIC,
    *COMPARISONS,
    *(ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.BinOp, ast.Compare),
    *(ast.In, ast.NotIn, ast.Name, ast.Load, ast.Constant, ast.List, ast.Tuple),
)


class Expression:
    """A parsed condition; `names` are the columns that it needs. ValueError for what is none."""

    def __init__(self, text: str):
        self.text = text
        if len(text) > LONGEST:
            raise ValueError(f"the expression has {len(text)} characters; expected at most {LONGEST}")
        try:
            self._tree = ast.parse(text.strip(), mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"{text!r} is no expression ({error})") from None
        self.names: list[str] = []
        for node in ast.walk(self._tree):
            if not isinstance(node, NODES):
                raise ValueError(
                    f"{text!r} holds {type(node).__name__}; expected columns, text, numbers, lists, comparisons, in, "
                    "and, or, not, + - * /"
                )
            if isinstance(node, ast.Constant) and not isinstance(node.value, str | int | float):
                raise ValueError(f"{text!r} holds {node.value!r}; expected text or a number")
            if isinstance(node, ast.Name) and node.id not in self.names:
                self.names.append(node.id)

    def rows(self, columns: Mapping[str, np.ndarray], count: int) -> np.ndarray:
        """Return (count,) bool, where the condition holds; `columns` has an array (count,) for each of `names`.

        ValueError where text is compared with numbers, or the expression is no condition.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            found = np.asarray(self._value(self._tree.body, columns))
        if found.dtype.kind != "b":
            raise ValueError(f"{self.text!r} gives {found.dtype}; expected a condition, such as a comparison")
        return np.broadcast_to(found, (count,)).copy()

    def _value(self, node: ast.AST, columns: Mapping[str, np.ndarray]) -> Any:
        match node:
            case ast.Name(id=name):
                return columns[name]
            case ast.Constant(value=value):
                return value
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~self._condition(operand, columns)
            case ast.UnaryOp(operand=operand):
                return -self._number(operand, columns)
            case ast.BoolOp(op=op, values=parts):
                combine = np.logical_and if isinstance(op, ast.And) else np.logical_or
                found = self._condition(parts[0], columns)
                for part in parts[1:]:
                    found = combine(found, self._condition(part, columns))
                return found
            case ast.BinOp(left=left, op=op, right=right):
                return ARITHMETIC[type(op)](self._number(left, columns), self._number(right, columns))
            case ast.Compare():
                return self._compare(node, columns)
        raise ValueError(f"{self.text!r}: a list stands only after `in`")

    def _compare(self, node: ast.Compare, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        found: Any = np.True_
        left = self._value(node.left, columns)
        for op, comparator in zip(node.ops, node.comparators):
            if isinstance(op, ast.In | ast.NotIn):
                found = np.logical_and(found, self._membership(left, comparator, columns) ^ isinstance(op, ast.NotIn))
                continue
            right = self._value(comparator, columns)
            self._check_kinds(left, right)
            found = np.logical_and(found, COMPARISONS[type(op)](np.asarray(left), np.asarray(right)))
            left = right
        return found

    def _membership(self, left: Any, node: ast.AST, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        if not isinstance(node, ast.List | ast.Tuple):
            raise ValueError(f"{self.text!r}: expected a list after `in`, such as ['good', 'mua']")
        found: Any = np.False_
        for member in node.elts:
            right = self._value(member, columns)
            self._check_kinds(left, right)
            found = np.logical_or(found, np.asarray(left) == np.asarray(right))
        return found

    def _condition(self, node: ast.AST, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        values = np.asarray(self._value(node, columns))
        if values.dtype.kind != "b":
            raise ValueError(
                f"{self.text!r}: {ast.unparse(node)!r} is {values.dtype}; `and`, `or` and `not` join conditions"
            )
        return values

    def _number(self, node: ast.AST, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        values = np.asarray(self._value(node, columns))
        if values.dtype.kind not in "iufb":
            raise ValueError(f"{self.text!r}: {ast.unparse(node)!r} is {values.dtype}; arithmetic takes numbers")
        return values.astype(np.float64)

    def _check_kinds(self, left: Any, right: Any) -> None:
        kinds = [np.asarray(side).dtype.kind == "U" for side in (left, right)]
        if kinds[0] != kinds[1]:
            raise ValueError(f"{self.text!r} compares text with numbers: write text in quotes, and numbers without")


def expression_problems(name: str, text: str | None) -> list[str]:
    """Return what is wrong with the text of a setting called `name`, if anything."""
    if text is None:
        return []
    try:
        Expression(text)
    except ValueError as error:
        return [f"{name}: {error}"]
    return []
