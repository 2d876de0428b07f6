r"""Generate activity of one session: free-running samples after a context, from covariates, or from nothing.

python launch/generate.py --model EXPORT --session fox_s1 --context DATA_DIR --context-bins 40 --horizon 60 \
    --samples 8 --seed 0 --out generated.npz
"""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("neurochorus") is None:  # not installed: use the checkout that this file lies in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "typings"))

from typing import Any

from jsonargparse import ArgumentParser

from neurochorus.data_shards.remote import is_directory_or_url
from neurochorus.launch.options import UNIT_IDS, add_device, add_sampling, command_parser
from neurochorus.models import load, read_training, set_sampling
from neurochorus.models.missing_units import accept_missing_units, missing_units_note
from neurochorus.pretrain.evaluation.contexts import read_context, read_unit_ids
from neurochorus.pretrain.evaluation.generation import generate, write_generated
from neurochorus.pretrain.evaluation.output_file import check_output


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        out = run(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"generated: {out}")
    return 0


def run(options: Any) -> Path:
    """Generate and write; raises ValueError for a session, context or path that does not fit."""
    out = check_output(Path(options.out), ".npz")
    model = load(options.model, options.device)
    accept_missing_units(model, [])
    set_sampling(model, options.sampling)
    context_bins = options.context_bins
    if context_bins is None and is_directory_or_url(options.context):
        context_bins = read_training(options.model).get("forecast", {}).get("context_bins")
    context = read_context(
        model,
        options.session,
        options.context,
        split=options.split,
        context_bins=context_bins,
        horizon_bins=options.horizon,
        trials=options.trials,
        covariates=options.covariates,
        unit_ids=read_unit_ids(options.unit_ids),
    )
    known = len(model.registry.session(options.session).unit_ids)
    if len(context.unit_ids) < known:
        print(missing_units_note(options.session, known - len(context.unit_ids), known), file=sys.stderr)
    arrays = generate(
        model,
        context,
        options.horizon,
        options.samples,
        options.seed,
        options.temperature,
        options.head,
        options.guidance,
    )
    return write_generated(out, arrays)


def _parser() -> ArgumentParser:
    parser = command_parser("generate.py", __doc__)
    parser.add_argument("--model", required=True, help="model directory")
    parser.add_argument("--session", required=True, help="session id that the model knows")
    parser.add_argument(
        "--context", default="none", help="data set directory or URL, .npy of counts (trials, bins, units), or none"
    )
    parser.add_argument("--unit-ids", default=None, help=UNIT_IDS)
    parser.add_argument("--split", default="test", choices=["train", "valid", "test"], help="of the data set")
    parser.add_argument(
        "--context-bins",
        type=int,
        default=None,
        help="default: as the model was trained for, or all of an .npy; 0: from the covariates alone",
    )
    parser.add_argument(
        "--covariates",
        default="known",
        help="known (the data set's: stimuli ahead, behaviour until the context ends), data (the data set's, behaviour "
        "of the generated bins included), none, or an .npz with arrays (trials, context and horizon bins, columns)",
    )
    parser.add_argument(
        "--guidance", type=float, default=1.0, help="above 1: follow the covariates more than the model learned to"
    )
    parser.add_argument("--horizon", type=int, required=True, help="bins to generate")
    parser.add_argument(
        "--trials", type=int, default=None, help="contexts to use at most, or trials to make from nothing (64)"
    )
    parser.add_argument("--samples", type=int, default=8, help="samples for each context")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=1.0, help="scale of the head's noise")
    parser.add_argument("--head", default=None, help="'gaussian' uses the companion head of the same model")
    add_sampling(parser)
    add_device(parser)
    parser.add_argument("--out", required=True, help=".npz to write")
    return parser


if __name__ == "__main__":
    sys.exit(main())
