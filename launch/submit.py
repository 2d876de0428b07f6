"""Write predictions in the formats of public benchmarks, checked against their schemas, or check files that are there.

python launch/submit.py brain-wide-bench --model EXPORT --recordings DIR/*.h5 --task forecasting --label NAME --seed 43 --out predictions
python launch/submit.py nlb --model EXPORT --session ID --data-set mc_maze_small --train train_input.h5 --eval eval_input.h5 --out nlb.h5
python launch/submit.py check predictions/NAME nlb.h5
"""  # noqa: E501

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("neurochorus") is None:  # not installed: use the checkout that this file lies in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "typings"))

from typing import Any

from jsonargparse import ArgumentParser
from rich.console import Console

from neurochorus.launch.options import add_device, add_sampling, command_parser
from neurochorus.models import load, set_sampling
from neurochorus.pretrain.evaluation.output_file import check_output
from neurochorus.pretrain.submissions import brain_wide_bench, neural_latents
from neurochorus.pretrain.submissions.brain_wide_windows import predict, read_recording
from neurochorus.pretrain.submissions.neural_latents_rates import benchmark_rates


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    run = {"brain-wide-bench": _brain_wide_bench, "nlb": _neural_latents, "check": _check}[options.benchmark]
    try:
        return run(options[options.benchmark])
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _brain_wide_bench(options: Any) -> int:
    brain_wide_bench.task_id(options.task)
    model = load(options.model, options.device)
    set_sampling(model, options.sampling)
    for path in options.recordings:
        recording = read_recording(Path(path))
        session_id = options.session or recording.recording_id
        with Console(stderr=True).status(path) as status:
            made = predict(
                model,
                recording,
                options.task,
                session_id=session_id,
                samples=options.samples,
                seed=options.seed,
                context_s=options.context_s,
                progress=lambda done, of, path=path: status.update(f"{path}: {done} of {of} windows"),
            )
        written = brain_wide_bench.write_predictions(
            Path(options.out),
            made,
            label=options.label,
            task=options.task,
            recording_id=recording.recording_id,
            seed=options.seed,
            dataset_version=recording.dataset_version,
            context_s=options.context_s,
        )
        print(f"predictions: {written}")
    return 0


def _neural_latents(options: Any) -> int:
    out = check_output(Path(options.out), ".h5")
    model = load(options.model, options.device)
    set_sampling(model, options.sampling)
    bin_ms = round(1000 * model.registry.session(options.session).bin_s)
    name = neural_latents.group_name(options.data_set, bin_ms)
    train, evaluated = Path(options.train), Path(options.eval)
    with Console(stderr=True).status(f"rates of {name}"):
        fields = benchmark_rates(
            model, options.session, train, evaluated, options.samples, options.seed, not options.no_forward
        )
    for key, shape in neural_latents.write_submission(out, name, fields).items():
        print(f"{name}/{key}: {shape}")
    print(f"submission: {out}")
    missing = neural_latents.missing_scaling_sets(out)
    if missing:
        print(f"before it is sent in, add {', '.join(missing)} to the same file: the three are scored together")
    return 0


def _check(options: Any) -> int:
    problems: list[str] = []
    for path in map(Path, options.paths):
        if path.is_dir():
            problems += brain_wide_bench.submission_problems(path, options.recording_ids)
        else:
            problems += neural_latents.file_problems(path)
    for problem in problems:
        print(problem)
    print(f"{len(problems)} problems" if problems else "nothing wrong found")
    return 1 if problems else 0


def _parser() -> ArgumentParser:
    parser = command_parser("submit.py", __doc__)
    commands = parser.add_subcommands(dest="benchmark")
    commands.add_subcommand("brain-wide-bench", _brain_wide_bench_parser())
    commands.add_subcommand("nlb", _neural_latents_parser())
    check = ArgumentParser(description="name what is wrong with files, or the folder of a label")
    check.add_argument("paths", nargs="+", help="folder of one label (BrainWideBench) or .h5 (NLB)")
    check.add_argument("--recording-ids", nargs="*", default=[], help="recordings that every task must hold")
    commands.add_subcommand("check", check)
    return parser


def _brain_wide_bench_parser() -> ArgumentParser:
    parser = ArgumentParser(description="prediction files of task suite 2, a file a recording")
    _add_model(parser)
    parser.add_argument("--recordings", nargs="+", required=True, help=".h5 files of the build selected_units")
    parser.add_argument("--session", default=None, help="the model's name for it; default: the recording's own id")
    parser.add_argument("--task", required=True, help="co_smoothing or forecasting")
    parser.add_argument("--label", required=True, help="name of the submission")
    parser.add_argument("--context-s", type=float, default=1.0, help="seconds that are read, 1 to 20")
    parser.add_argument("--out", required=True, help="directory that holds the folder of the label")
    return parser


def _neural_latents_parser() -> ArgumentParser:
    parser = ArgumentParser(description="a group of a submission file, beside those that are in it")
    _add_model(parser)
    parser.add_argument("--session", required=True)
    parser.add_argument("--data-set", required=True, help=", ".join(neural_latents.DATA_SETS))
    parser.add_argument("--train", required=True, help=".h5 of make_train_input_tensors")
    parser.add_argument("--eval", required=True, help=".h5 of make_eval_input_tensors")
    parser.add_argument("--no-forward", action="store_true", help="leave the forward bins out")
    parser.add_argument("--out", required=True, help="the submission, an .h5 file")
    return parser


def _add_model(parser: ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="model directory")
    parser.add_argument("--samples", type=int, default=32, help="rollouts a forecast is the mean of")
    parser.add_argument("--seed", type=int, default=0)
    add_device(parser)
    add_sampling(parser)


if __name__ == "__main__":
    sys.exit(main())
