"""A whole run on re-binned windows of two data sets, mixed by subject and augmented: it trains, and says what on."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from neurochorus.data_shards.corpus import Corpus
from neurochorus.data_shards.plan import SamplePlan
from neurochorus.data_shards.seeds import seed_number
from neurochorus.data_shards.writer import write_dataset
from neurochorus.models import load
from neurochorus.pretrain.evaluation.windows import read_windows
from tests.data_shards.conftest import small_recording

ROOT = Path(__file__).resolve().parents[2]
AUGMENT = [
    {"name": "bin_jitter"},
    {"name": "unit_dropout", "share": 0.2},
    {"name": "coordinated_dropout", "share": 0.3, "span_bins": 2},
]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sessions of one animal in bins of 10 ms and one of another animal in bins of 20 ms."""
    folder = tmp_path_factory.mktemp("reading")
    fine = [dataclasses.replace(small_recording(name, "anna", 6, 40, i), bin_s=0.01) for i, name in enumerate("ab")]
    write_dataset(fine, folder / "fine", name="fine", sample_bins=12)
    write_dataset([small_recording("c", "bert", 5, 40, 7)], folder / "coarse", name="coarse", sample_bins=12)
    return folder


def train(work: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    settings = {
        "run": {"dir": str(work / "run")},
        "data": {
            "path": [str(work / "fine"), str(work / "coarse")],
            "bin_s": 0.04,
            "window_bins": 2,
            "mixture": "subject",
            "alpha": 0.0,
            "augment": AUGMENT,
            "workers": 0,
        },
        "model": {
            "autoencoder": {"unit_dropout": 0.0, "latents": 4, "encoder": {"width": 16, "blocks": 1, "heads": 2}}
        },
        "autoencoder": {"steps": 6},
        "dynamics": {"steps": 2},
        "train": {"global_batch": 8, "micro_batch": 4, "log_every": 2, "precision": "fp32"},
        "forecast": {"context_bins": 2, "horizon_bins": 1},
        "evaluation": {"every": 4, "batches": 2},
        "wandb": {"mode": "disabled"},
    }
    (work / "config.yaml").write_text(json.dumps(settings))  # JSON is YAML
    command = [sys.executable, str(ROOT / "launch" / "pretrain.py"), "--config", str(work / "config.yaml"), *overrides]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_it_trains_says_what_it_was_given_and_refuses_other_bins(work: Path) -> None:
    result = train(work)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in (work / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["stage"] == "autoencoder"] == [1, 2, 4, 6]
    last = next(line for line in reversed(lines) if line["stage"] == "autoencoder")
    corpus = Corpus([work / "fine", work / "coarse"], 0.04)
    plan = SamplePlan.from_corpus(
        corpus,
        "train",
        seed=seed_number("0/autoencoder"),
        group=4,
        window_bins=2,
        alpha=0.0,
        mixture="subject",
    )
    drawn = plan.drawn(48)
    assert last["samples_seen"] == 48
    assert last["share_by_subject"] == {"anna": (drawn["a"] + drawn["b"]) / 48, "bert": drawn["c"] / 48}
    assert last["epochs_by_subject"]["bert"] == pytest.approx(drawn["c"] / plan.windows["c"])
    model = load(work / "run" / "export")
    assert model.registry.bin_s == 0.04
    windows = read_windows(Corpus(work / "fine", model.registry.bin_s), "a", "test", 3)
    assert windows.signal_NTC.shape[1:] == (3, 6)
    refused = train(work, "data.bin_s=0.02", "data.window_bins=4", "autoencoder.steps=8")
    assert refused.returncode != 0
    assert "data.bin_s: 0.04" in refused.stderr
