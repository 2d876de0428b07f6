"""The main table of RESULTS.md: pretrain on three mice, fine-tune on the fourth, forecast by rollout.

python launch/results.py --recordings DIR --out runs/results --seeds 0 1

Finished parts are kept, so an interrupted call is continued by the same command.
"""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("neurochorus") is None:  # not installed: use the checkout that this file lies in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "typings"))

import json

from jsonargparse import ArgumentParser

from neurochorus.launch.commands import HERE, CommandFailed, deepspeed, python, run
from neurochorus.launch.results_table import markdown_table

HEADS = ("energy", "flow", "gaussian")
SOURCES = ["subject:Cori", "subject:Forssmann", "subject:Hench"]
TARGET = "subject:Lederberg"
PORT = 29541


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    out = Path(options.out)
    try:
        data = _data(options.recordings, out)
        files = [_seed(out / f"seed{seed}", data, seed, options.ranks) for seed in options.seeds]
    except CommandFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    table = markdown_table([json.loads(file.read_text()) for file in files], TARGET.removeprefix("subject:"))
    (out / "table.md").write_text(table)
    print(f"\n{table}\ntable: {out / 'table.md'}")
    return 0


def _data(recordings: str, out: Path) -> str:
    data = out / "data"
    if not data.exists():
        recipe = str(HERE / "configs" / "recipes" / "steinmetz2019.yaml")
        run(python("shard.py", "--recipe", recipe, "--source", recordings, "--out", str(data)), "recordings to shards")
    return str(data)


def _seed(out: Path, data: str, seed: int, ranks: int) -> Path:
    """Train, fine-tune and measure all heads with one seed; returns the metrics file."""
    metrics = out / "metrics.json"
    config = str(HERE / "configs" / "steinmetz2019.yaml")
    for head in HEADS:
        pretrained, tuned = out / f"pretrain-{head}", out / f"finetune-{head}"
        arguments = ["--config", config, f"run.dir={pretrained}", f"run.seed={seed}", f"data.path={data}"]
        arguments += [f"data.sessions={json.dumps(SOURCES)}", f"model.head={head}"]
        tuning = ["--model", f"{pretrained}/export", "--data", data, "--sessions", TARGET, "--out", str(tuned)]
        tuning += ["--config", str(HERE / "configs" / "finetune" / "steinmetz2019.yaml"), "--set", f"run.seed={seed}"]
        if head != HEADS[0]:  # all heads work on the same latents
            arguments.append(f"autoencoder.init={out}/pretrain-{HEADS[0]}/autoencoder")
            tuning.append(f"autoencoder.init={out}/finetune-{HEADS[0]}/export")
        if not (pretrained / "export").exists():
            run(deepspeed(ranks, PORT, "pretrain.py", *arguments), f"seed {seed}: pretraining, {head} head")
        if not (tuned / "export").exists():
            run(deepspeed(ranks, PORT, "finetune.py", *tuning), f"seed {seed}: a new mouse, {head} head")
    if not metrics.exists():
        beside = [f"{head}={out}/finetune-{head}/export" for head in HEADS[1:]]
        arguments = ["--model", f"{out}/finetune-{HEADS[0]}/export", "--data", data, "--beside", *beside]
        run(python("evaluate.py", *arguments, "--out", str(metrics)), f"seed {seed}: evaluation")
    return metrics


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="results.py", description=__doc__)
    parser.add_argument("--recordings", required=True, help="directory with the steinmetz2019 .npz files")
    parser.add_argument("--out", default="runs/results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--ranks", type=int, default=2, help="processes to train on")
    return parser


if __name__ == "__main__":
    sys.exit(main())
