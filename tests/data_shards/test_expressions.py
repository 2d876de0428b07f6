import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurochorus.data_shards.expressions import Expression

COLUMNS = {
    "quality": np.array(["good", "mua", "good", "noise"]),
    "rate": np.array([0.05, 3.0, 2.0, np.nan]),
    "depth": np.array([100, 200, 300, 400]),
    "kept": np.array([True, True, False, True]),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("quality == 'good' and rate > 0.1", [0, 0, 1, 0]),
        ("quality in ['good', 'mua']", [1, 1, 1, 0]),
        ("not quality in ('good',)", [0, 1, 0, 1]),
        ("quality not in ['good']", [0, 1, 0, 1]),
        ("rate == rate", [1, 1, 1, 0]),
        ("100 < depth <= 300", [0, 1, 1, 0]),
        ("depth / 100 - 1 >= rate * 0.5 or kept", [1, 1, 1, 1]),
        ("kept and -depth < -150", [0, 1, 0, 1]),
        ("depth in [100, 400]", [1, 0, 0, 1]),
        ("True", [1, 1, 1, 1]),
    ],
)
def test_conditions_over_columns(text: str, expected: list[int]) -> None:
    assert Expression(text).rows(COLUMNS, 4).tolist() == [bool(value) for value in expected]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("__import__('os').system('true')", "holds Call"),
        ("quality.__class__ == 1", "holds Attribute"),
        ("depth[0] > 1", "holds Subscript"),
        ("[x for x in depth]", "holds ListComp"),
        ("(lambda: 1)() == 1", "holds Call"),
        ("depth ** 9 > 1", "holds Pow"),
        ("f'{depth}' == '1'", "holds JoinedStr"),
        ("depth > ", "is no expression"),
        ("depth == b'1'", "expected text or a number"),
        ("(" * 3000, "expected at most 2000"),
        ("not " * 480 + "kept" + ")" * 9, "is no expression"),
        ("", "is no expression"),
    ],
)
def test_anything_else_is_refused_when_it_is_read(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Expression(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("quality > 3", "compares text with numbers"),
        ("depth in ['a']", "compares text with numbers"),
        ("depth + 1", "expected a condition"),
        ("depth and kept", "join conditions"),
        ("quality * 2 == 2", "arithmetic takes numbers"),
        ("depth in quality", "expected a list after `in`"),
        ("[1] == [1]", "only after `in`"),
    ],
)
def test_what_makes_no_sense_says_why(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Expression(text).rows(COLUMNS, 4)


@given(st.text(alphabet="depth kept()[]<>=!+-*/'\"0123456789.,andorinot_:{}@", max_size=40))
def test_no_text_does_more_than_give_a_condition_or_a_value_error(text: str) -> None:
    try:
        rows = Expression(text).rows(COLUMNS, 4)
    except (ValueError, KeyError):
        return
    assert rows.shape == (4,)
    assert rows.dtype == bool
