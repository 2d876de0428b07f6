"""What the commands have in common: settings anywhere on the line, help as it is written."""

import re
from pathlib import Path
from types import ModuleType

import pytest

from neurochorus.launch import evaluate, finetune, generate, pretrain, shard
from neurochorus.launch.options import overrides_last


def test_settings_are_told_from_the_values_of_options() -> None:
    words = ["--sessions", "a", "b.c", "dynamics.steps=3", "--out", "run", "model.head=flow"]
    assert overrides_last(words) == [
        *["--sessions", "a", "b.c", "--out", "run", "--"],
        *["dynamics.steps=3", "model.head=flow"],
    ]
    assert overrides_last(["--out", "run"]) == ["--out", "run"]
    loose = ["--sessions", "a", "passes=60", "x=1"]
    assert overrides_last(loose, ["passes"]) == ["--sessions", "a", "x=1", "--", "passes=60"]


@pytest.mark.parametrize("words", [["--dry-run"], ["--adapt", "lora"]])
def test_finetune_does_not_take_for_a_comparison_what_says_nothing_of_it(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", str(tmp_path), "--data", str(tmp_path), "--out", str(tmp_path / "run")]
    assert finetune.main([*arguments, "--compare", "scratch", *words]) == 1
    assert capsys.readouterr().err.startswith(f"error: {words[0]} says nothing of --compare: ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [["dynamics.stps=3"], ["--set", "dynamics.stps=3"], ["--set", "adpt=lora"]])
def test_finetune_takes_settings_with_and_without_set(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bare ones used to be taken for sessions."""
    arguments = ["--model", str(tmp_path), "--data", str(tmp_path), "--out", str(tmp_path / "run"), "--dry-run"]
    assert finetune.main([*arguments, "--sessions", "subject:otter", *words]) == 1
    said = capsys.readouterr().err
    assert f"{words[-1].partition('=')[0]}: unknown key" in said
    assert "1 problem\n" in said


@pytest.mark.parametrize("command", [evaluate, finetune, generate, pretrain, shard])
def test_help_shows_examples_line_by_line(command: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--help"])
    examples = [line for line in (command.__doc__ or "").splitlines() if re.match(r"(python|deepspeed) ", line)]
    shown = capsys.readouterr().out.splitlines()
    assert examples
    assert all(line in shown for line in examples)
