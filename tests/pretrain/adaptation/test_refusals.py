"""Data that do not fit a model are refused with what differs; columns are matched by unit id; little data are named."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.recording import Recording
from neurochorus.data_shards.settings import SettingsError
from neurochorus.data_shards.writer import write_dataset
from neurochorus.launch import evaluate, finetune, generate
from neurochorus.pretrain.adaptation.preview import preview
from neurochorus.pretrain.finetuning import prepare
from tests.pretrain.adaptation.small_runs import driven_recording, tuning


def written(folder: Path, *recordings: Recording) -> str:
    write_dataset(list(recordings), folder, name="other", sample_bins=12)
    return str(folder)


def reordered(recording: Recording, columns: list[int]) -> Recording:
    """The same recording with only these columns, in this order."""
    units = [recording.units[column] for column in columns]
    return replace(recording, units=units, signal_TC=np.ascontiguousarray(recording.signal_TC[:, columns]))


@pytest.mark.parametrize(
    ("recording", "message"),
    [
        (lambda: driven_recording("a1"), r"session 'a1' is in the model already, with the same units: choose new"),
        (
            lambda: driven_recording("a1", units=7),
            r"'a1': other units than the model was trained on .* 2 only in the data \(a1-u5, a1-u6\)",
        ),
        (
            lambda: replace(driven_recording("a1"), subject_id="subject_z"),
            "'a1': the data are of subject 'subject_z', the model knows it as 'subject_a'",
        ),
        (
            lambda: driven_recording("d1", bin_s=0.01),
            r"'d1': spikes in bins of 0.01 s; the model was trained on spikes in bins of 0.02 s: set data.bin_s",
        ),
        (
            lambda: driven_recording("d1", modality="continuous"),
            r"'d1': continuous in bins of 0.02 s; the model was trained on spikes in bins of 0.02 s",
        ),
    ],
)
def test_recordings_that_do_not_fit(base: Path, tmp_path: Path, recording: Any, message: str) -> None:
    path = written(tmp_path / "other", recording())
    with pytest.raises(ValueError, match=message):
        prepare(tuning(base, data={"path": path, "sessions": None}))


@pytest.mark.parametrize(
    ("recording", "section", "message"),
    [
        (lambda: driven_recording("d1"), {}, r"replay.path .*: the model knows none of its sessions \(d1, ...\)"),
        (lambda: driven_recording("b1", units=3), {}, "'b1': other units than the model was trained on"),
        (lambda: driven_recording("d1"), {"sessions": ["d1"]}, "the model knows none"),
    ],
)
def test_replay_that_does_not_fit(
    base: Path, tmp_path: Path, recording: Any, section: dict[str, Any], message: str
) -> None:
    path = written(tmp_path / "other", recording())
    with pytest.raises(ValueError, match=message):
        prepare(tuning(base, adapt="full", replay={"path": path, **section}))


def test_settings_that_make_no_sense_are_all_named(base: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        tuning(
            base,
            trunk_factor=0.0,
            read_in_factor=-1.0,
            passes=0,
            lora={"rank": 0},
            unfreeze={"begins": [0.5, 0.2]},
            replay={"path": "x", "share": 1.5},
            stop={"every": 0, "batches": 1},
        )
    for words in (
        "trunk_factor: expected a positive number",
        "read_in_factor: expected a positive number, found -1.0",
        "passes: expected null or a positive number, found 0",
        "lora.rank: expected 1 or more",
        "unfreeze.begins: [0.5, 0.2]: a group cannot begin before",
        "replay.share: expected a number between 0 and 1, found 1.5",
        "replay: with adapt rows nothing that old sessions read is trained",
        "stop.every: expected 1 or more",
        "stop.batches: expected 2 or more",
    ):
        assert words in str(caught.value)


def test_new_units_get_their_rows_by_id(base: Path, tmp_path: Path) -> None:
    """The order of columns is not the order of units."""
    order = [3, 0, 5, 1, 4, 2]
    path = written(tmp_path / "other", reordered(driven_recording("c1"), order))
    plain, permuted = prepare(tuning(base)).model, prepare(tuning(base, data={"path": path})).model
    for unit in range(6):
        one, other = (m.registry.session("c1").row_of[f"c1-u{unit}"] for m in (plain, permuted))
        assert plain.autoencoder.unit_mean[one] == permuted.autoencoder.unit_mean[other]
        bias = [m.autoencoder.unit_offsets.weight[row, 0] for m, row in ((plain, one), (permuted, other))]
        assert bias[0] == bias[1]


def forecast(folder: Path, data: str, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, np.ndarray], str]:
    out = folder / "out.npz"
    arguments = ["--model", str(folder / "base"), "--session", "b1", "--context", data, "--context-bins", "8"]
    assert generate.main([*arguments, "--horizon", "4", "--samples", "2", "--out", str(out)]) == 0
    with np.load(out, allow_pickle=False) as archive:
        return dict(archive), capsys.readouterr().err


def test_permuted_and_missing_units_of_a_known_session(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "base").symlink_to(base / "base")
    order = [3, 0, 5, 1, 4, 2, 7, 6]
    permuted = written(tmp_path / "permuted", reordered(driven_recording("b1"), order))
    fewer = written(tmp_path / "fewer", reordered(driven_recording("b1"), order[:5]))
    plain, note = forecast(tmp_path, str(base / "data"), capsys)
    assert note == ""
    other, note = forecast(tmp_path, permuted, capsys)
    assert note == ""
    np.testing.assert_allclose(other["latents"], plain["latents"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(other["rates"], plain["rates"][..., order], rtol=1e-4, atol=1e-6)
    some, note = forecast(tmp_path, fewer, capsys)
    assert "session b1: 3 of the 8 units that the model knows are not in the data" in note
    assert list(some["unit_ids"]) == [f"b1-u{unit}" for unit in order[:5]]
    arguments = ["--model", str(base / "base"), "--samples", "2", "--sessions", "b1"]
    scores = []
    for path in (str(base / "data"), permuted, fewer):
        out = tmp_path / "metrics.json"
        assert evaluate.main([*arguments, "--data", path, "--out", str(out)]) == 0
        scores.append(evaluate.json.loads(out.read_text()))
    rows = [score["reconstruction"]["rows"]["autoencoder"]["mean"] for score in scores]
    assert rows[0] == pytest.approx(rows[1], rel=1e-5)
    assert "missing_units" not in scores[1]
    assert scores[2]["missing_units"] == {"b1": 3}
    assert scores[2]["sessions"]["b1"]["units"] == 5


def test_little_data_are_named_with_what_they_can_tell(base: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "other", driven_recording("d1", trials=12))
    entry = Corpus(path).session("d1")
    found = preview(tuning(base, data={"path": path, "sessions": None}))
    rate = float(np.median(entry.unit_mean)) / 0.02
    error = np.sqrt(rate / (entry.train_bins * 0.02))  # of a Poisson count over that time
    assert found.sessions[0].train_windows == 8
    (little, valid) = found.warnings
    assert "'d1': 8 windows" in little
    assert f"{rate:.2g} spikes/s, is known to ± {error:.2g} ({error / rate:.0%})" in little
    assert valid == (
        "valid split of the new sessions: 2 windows, fewer than 30: the standard error of a score over them is 71% of "
        "the spread between windows"
    )


def test_the_command_says_what_it_would_train(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", str(base / "base"), "--data", str(base / "data"), "--sessions", "c1", "b2"]
    arguments += ["--out", str(tmp_path / "run"), "--adapt", "unfreeze", "--dry-run", "--set"]
    arguments += [f"replay.path={base / 'data'}", "replay.share=0.5", "autoencoder.steps=40"]
    assert finetune.main(arguments) == 0
    text = capsys.readouterr().out
    for words in (
        "adapt: unfreeze",
        "autoencoder: 40 steps",
        "matrices: 3,072, learning rate 0.0005, from step 20 on",
        "session b2 of subject_b: 4 units, 27 train windows",
        "replay: 50% of each batch from a1, b1",
    ):
        assert words in text
    assert not (tmp_path / "run").exists()
    assert finetune.main([*arguments, "lora.ranc=2"]) == 1
    assert "lora.ranc: unknown key; did you mean 'rank'" in capsys.readouterr().err
