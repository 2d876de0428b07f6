"""Settings: every problem named at once, and what a partly given section means."""

from dataclasses import field
from pathlib import Path

import pytest

from neurochorus.data_shards.settings import (
    SettingsError,
    apply_overrides,
    parse_settings,
    read_settings,
    settings,
    settings_to_dict,
)


@settings
class Inner:
    width: int = 4
    rate: float = 1e-3

    def problems(self) -> list[str]:
        return ["width: must be even"] if self.width % 2 else []


@settings
class Outer:
    name: str
    inner: Inner = Inner(width=8)
    many: dict[str, Inner] = field(default_factory=dict)
    listed: list[Inner] = field(default_factory=list)


def problems(values: dict[str, object]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        parse_settings(Outer, values, "somewhere")
    assert str(caught.value).startswith("somewhere: ")
    return caught.value.problems


def test_all_problems_are_reported_together() -> None:
    found = problems({"nam": "x", "inner": {"widht": 2, "rate": "fast"}})
    assert len(found) == 4
    assert "inner.widht: unknown key; did you mean 'width'?" in found
    assert "nam: unknown key; did you mean 'name'?" in found
    assert any(line.startswith("name: missing") for line in found)
    assert any(line.startswith("inner.rate: ") and "'fast'" in line for line in found)


def test_combinations_are_checked_at_any_depth() -> None:
    values = {"name": "a", "inner": {"width": 3}, "many": {"x": {"width": 5}}, "listed": [{}, {"width": 7}]}
    assert problems(values) == [
        "inner.width: must be even",
        "many.x.width: must be even",
        "listed[1].width: must be even",
    ]


def test_a_section_given_in_part_keeps_the_rest_of_its_default() -> None:
    made = parse_settings(Outer, {"name": "a", "inner": {"rate": "1e-4"}}, "somewhere")
    assert made.inner == Inner(width=8, rate=1e-4)


def test_overrides_are_yaml_and_leave_the_source_alone(tmp_path: Path) -> None:
    values = {"inner": {"width": 2}}
    assert apply_overrides(values, ["inner.rate=0.5", "name=null", "many.x.width=6"]) == {
        "inner": {"width": 2, "rate": 0.5},
        "name": None,
        "many": {"x": {"width": 6}},
    }
    assert values == {"inner": {"width": 2}}
    with pytest.raises(SettingsError, match=r"not of the form section\.key=value"):
        apply_overrides({}, ["inner.rate"])
    (tmp_path / "a.yaml").write_text("name: a\ninner: {width: 6}\n")
    made = read_settings(Outer, tmp_path / "a.yaml", ["inner.width=10"])
    assert settings_to_dict(made)["inner"] == {"width": 10, "rate": 1e-3}


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no.yaml.*\n.*does not exist"):
        read_settings(Outer, tmp_path / "no.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(SettingsError, match="expected a mapping of settings, found list"):
        read_settings(Outer, tmp_path / "list.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1\n")
    with pytest.raises(SettingsError, match="not valid YAML"):
        read_settings(Outer, tmp_path / "bad.yaml")
