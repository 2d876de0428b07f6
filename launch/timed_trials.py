r"""Generate whole trials of one session from nothing, and time it; or observe recorded ones anew from their latents.

python launch/timed_trials.py --model EXPORT --session lorenz_s1 --trials 1000 --horizon 256 --out trials.npz \
    [--sampling dynamics.diffusion.sampler=ddim dynamics.diffusion.sampling_steps=50]
python launch/timed_trials.py --model EXPORT --session lorenz_s1 --recorded DATA_DIR --horizon 256 --out trials.npz
"""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("neurochorus") is None:  # not installed: use the checkout that this file lies in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "typings"))

from typing import Any

from jsonargparse import ArgumentParser

from neurochorus.data_shards.corpus import Corpus
from neurochorus.launch.options import add_device, add_sampling, command_parser
from neurochorus.models import load, set_sampling
from neurochorus.pretrain.evaluation.output_file import check_output
from neurochorus.pretrain.evaluation.whole_trials import (
    WholeTrials,
    trials_from_nothing,
    trials_observed_anew,
)
from neurochorus.pretrain.evaluation.windows import read_windows


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        trials = run(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    threads = "1 thread" if trials.threads == 1 else f"{trials.threads} threads"
    print(
        f"{options.out}: {len(trials.counts_NTC)} trials, latents in {trials.latent_seconds:.2f} s, "
        f"counts in {trials.count_seconds:.2f} s, {threads}"
    )
    return 0


def run(options: Any) -> WholeTrials:
    """Generate and write; raises ValueError for a session, setting or path that does not fit."""
    out = check_output(Path(options.out), ".npz")
    model = load(options.model, options.device)
    if options.recorded is None:
        set_sampling(model, options.sampling)
        trials = trials_from_nothing(model, options.session, options.trials, options.horizon, options.seed)
    else:
        corpus = Corpus(options.recorded, model.registry.bin_s)
        windows = read_windows(corpus, options.session, options.split, options.horizon)
        signal_NTC = windows.signal_NTC[: options.trials]
        trials = trials_observed_anew(model, options.session, signal_NTC, options.seed)
    trials.write(out)
    return trials


def _parser() -> ArgumentParser:
    parser = command_parser("timed_trials.py", __doc__)
    parser.add_argument("--model", required=True, help="model directory")
    parser.add_argument("--session", required=True, help="session id that the model knows")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--horizon", type=int, required=True, help="bins of a trial")
    parser.add_argument("--recorded", default=None, help="data set directory with trials to observe anew")
    parser.add_argument("--split", default="test", choices=["train", "valid", "test"], help="of that data set")
    parser.add_argument("--seed", type=int, default=0)
    add_device(parser)
    parser.add_argument("--out", required=True, help=".npz to write")
    add_sampling(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
