"""The whole path on four made-up animals, from nothing to a report: `make demo`.

Shards, pretraining of both stages on three animals with the energy head and then the flow head, fine-tuning on the
fourth, generation, evaluation, and one page that shows it.
"""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("neurochorus") is None:  # not installed: use the checkout that this file lies in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "typings"))


from neurochorus.launch.commands import HERE, CommandFailed, deepspeed, python, run
from neurochorus.launch.options import command_parser

HEADS = ("energy", "flow")
NEW_ANIMAL = "subject:otter"
SESSION = "otter_s1"
PORT = 29531


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = command_parser("demo.py", __doc__)
    parser.add_argument("--out", default="demo", help="directory for everything that is made")
    parser.add_argument("--ranks", type=int, default=2, help="processes to train on")
    options = parser.parse_args(arguments)
    out = Path(options.out)
    try:
        seconds = sum(run(command, title) for title, command in steps(out, options.ranks))
    except CommandFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"\nDone in {seconds:.0f} s. Made in {out}/:")
    for path, what in products(out):
        print(f"  {path}  {what}")
    return 0


def steps(out: Path, ranks: int) -> list[tuple[str, list[str]]]:
    """(title, command) of everything the demo does, leaving out the data set when it is there already."""
    config, recipe = HERE / "configs" / "demo.yaml", HERE / "configs" / "recipes" / "demo.yaml"
    data = f"{out}/data"
    made: list[tuple[str, list[str]]] = []
    if not Path(data).exists():
        made.append(("recordings to shards", python("shard.py", "--recipe", str(recipe), "--out", data)))
    made.append(("what the data set holds", python("describe.py", data, "--verify")))
    for head in HEADS:
        arguments = [
            "--config",
            str(config),
            f"run.dir={out}/pretrain-{head}",
            f"data.path={data}",
            f"model.head={head}",
        ]
        tuning = ["--model", f"{out}/pretrain-{head}/export", "--data", data, "--sessions", NEW_ANIMAL]
        tuning += ["--out", f"{out}/finetune-{head}", "--set", "autoencoder.steps=800", "dynamics.steps=80"]
        if head != HEADS[0]:  # both heads work on the same latents
            arguments.append(f"autoencoder.init={out}/pretrain-{HEADS[0]}/autoencoder")
            tuning.append(f"autoencoder.init={out}/finetune-{HEADS[0]}/export")
        model = f"{out}/finetune-{head}/export"
        generation = ["--model", model, "--session", SESSION, "--context", data, "--context-bins", "40"]
        generation += ["--horizon", "60", "--samples", "16"]
        made += [
            (f"pretraining, {head} head", deepspeed(ranks, PORT, "pretrain.py", *arguments)),
            (f"a new animal, {head} head", deepspeed(ranks, PORT, "finetune.py", *tuning)),
            (
                f"generation, {head} head",
                python("generate.py", *generation, "--out", f"{out}/generated-{head}.npz"),
            ),
            (
                f"evaluation, {head} head",
                python("evaluate.py", "--model", model, "--data", data, "--out", f"{out}/metrics-{head}.json"),
            ),
        ]
    report = ["--metrics", *(f"{out}/metrics-{head}.json" for head in HEADS)]
    report += ["--generated", *(f"{out}/generated-{head}.npz" for head in HEADS)]
    report += ["--runs", *(f"{out}/pretrain-{head}" for head in HEADS), "--out", f"{out}/report.html"]
    report += ["--pictures", str(out)]
    made.append(("report", python("report.py", *report)))
    return made


def products(out: Path) -> list[tuple[Path, str]]:
    """(path, what it is) of what a person may want to look at."""
    pictures = [(out / f"report_{head}.png", f"{head} head: generated against held-out activity") for head in HEADS]
    return [
        (out / "report.html", "open this: tables and charts"),
        *pictures,
        (out / "data", "the data set (tar shards, index, manifest)"),
        (out / "finetune-energy" / "export", "a model that knows all four animals"),
        (out / "generated-energy.npz", "generated activity of the new animal"),
    ]


if __name__ == "__main__":
    sys.exit(main())
