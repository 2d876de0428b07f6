"""The tables of RESULTS.md on steinmetz2019: forecasts by rollout of models trained on all mice, or adapted to one.

python launch/results.py --recordings DIR --out runs/results --seeds 0 1                  # trained on all 18 sessions
python launch/results.py --recordings DIR --out runs/results --seeds 0 1 --target Hench   # on three mice, then Hench

Finished parts are kept, so an interrupted call is continued by the same command.
"""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("neurochorus") is None:  # not installed: use the checkout that this file lies in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "typings"))

import json
from collections.abc import Sequence
from dataclasses import dataclass

from jsonargparse import ArgumentParser

from neurochorus.launch.commands import HERE, CommandFailed, deepspeed, python, run
from neurochorus.launch.results_table import markdown_table

HEADS = ("energy", "flow", "gaussian")
MICE = ("Cori", "Forssmann", "Hench", "Lederberg")
ALL = "all"
PORT = 29541


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    out = Path(options.out)
    try:
        data = _data(options.recordings, out)
        what = Target(data, options.target, options.heads, options.ranks)
        files = [what.measured(out / (options.target or ALL) / f"seed{seed}", seed) for seed in options.seeds]
    except CommandFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    table = markdown_table([json.loads(file.read_text()) for file in files], options.target)
    place = out / (options.target or ALL) / "table.md"
    place.write_text(table)
    print(f"\n{table}\ntable: {place}")
    return 0


def _data(recordings: str, out: Path) -> str:
    data = out / "data"
    if not data.exists():
        recipe = str(HERE / "configs" / "recipes" / "steinmetz2019.yaml")
        run(python("shard.py", "--recipe", recipe, "--source", recordings, "--out", str(data)), "recordings to shards")
    return str(data)


@dataclass(frozen=True)
class Target:
    """What is trained and measured: all mice, or all but one and then that one."""

    data: str
    mouse: str | None
    heads: Sequence[str]
    ranks: int

    def measured(self, out: Path, seed: int) -> Path:
        """Train, adapt and measure all heads with one seed; returns the metrics file."""
        metrics = out / "metrics.json"
        models = {head: f"{self._model(out, seed, head)}/export" for head in self.heads}
        if not metrics.exists():
            beside = [f"{head}={model}" for head, model in models.items() if head != self.heads[0]]
            arguments = ["--model", models[self.heads[0]], "--data", self.data]
            arguments += ["--beside", *beside] if beside else []
            run(python("evaluate.py", *arguments, "--out", str(metrics)), f"seed {seed}: evaluation")
        return metrics

    def _model(self, out: Path, seed: int, head: str) -> Path:
        """The run of one head, trained if it is not there; all heads work on the same latents."""
        pretrained, first = out / f"pretrain-{head}", out / f"pretrain-{self.heads[0]}"
        arguments = ["--config", str(HERE / "configs" / "steinmetz2019.yaml"), f"run.dir={pretrained}"]
        arguments += [f"run.seed={seed}", f"data.path={self.data}", f"model.head={head}"]
        if self.mouse is not None:
            sources = [f"subject:{mouse}" for mouse in MICE if mouse != self.mouse]
            arguments.append(f"data.sessions={json.dumps(sources)}")
        if head != self.heads[0]:
            arguments.append(f"autoencoder.init={first}/autoencoder")
        if not (pretrained / "export").exists():
            run(deepspeed(self.ranks, PORT, "pretrain.py", *arguments), f"seed {seed}: pretraining, {head} head")
        return pretrained if self.mouse is None else self._adapted(out, seed, head, pretrained)

    def _adapted(self, out: Path, seed: int, head: str, pretrained: Path) -> Path:
        tuned = out / f"finetune-{head}"
        arguments = ["--model", f"{pretrained}/export", "--data", self.data, "--out", str(tuned)]
        arguments += ["--sessions", f"subject:{self.mouse}"]
        arguments += ["--config", str(HERE / "configs" / "finetune" / "steinmetz2019.yaml")]
        arguments += ["--set", f"run.seed={seed}"]
        if head != self.heads[0]:
            arguments.append(f"autoencoder.init={out}/finetune-{self.heads[0]}/export")
        if not (tuned / "export").exists():
            run(deepspeed(self.ranks, PORT, "finetune.py", *arguments), f"seed {seed}: a new mouse, {head} head")
        return tuned


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="results.py", description=__doc__)
    parser.add_argument("--recordings", required=True, help="directory with the steinmetz2019 .npz files")
    parser.add_argument("--out", default="runs/results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--target", choices=MICE, default=None, help="the mouse to adapt to; default: train on all")
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS), help="the first trains the latents")
    parser.add_argument("--ranks", type=int, default=2, help="processes to train on")
    return parser


if __name__ == "__main__":
    sys.exit(main())
