"""Fill in what was not recorded, or is hidden on purpose, of one session: units, bins or single entries, into an .npz.

python launch/impute.py --model EXPORT --session fox_s1 --data DATA_DIR --hide-bins 40:60 --hide-units u0003,u0007 \
    --samples 32 --seed 0 --out imputed.npz
"""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("neurochorus") is None:  # not installed: use the checkout that this file lies in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "typings"))

from typing import Any

import numpy as np
from jsonargparse import ArgumentParser

from neurochorus.launch.options import UNIT_IDS, add_device, command_parser
from neurochorus.models import load
from neurochorus.models.missing_units import accept_missing_units, missing_units_note
from neurochorus.pretrain.evaluation.contexts import read_unit_ids
from neurochorus.pretrain.evaluation.missing_data import (
    arrays_of,
    imputed,
    read_partly_observed,
    with_all_units,
    write_imputed,
)
from neurochorus.pretrain.evaluation.output_file import check_output

SETTINGS = ("look_ahead_bins", "particles", "least_share", "temperature", "head", "guidance")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        out = run(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"imputed: {out}")
    return 0


def run(options: Any) -> Path:
    """Impute and write; raises ValueError for a session, data or mask that does not fit."""
    out = check_output(Path(options.out), ".npz")
    model = load(options.model, options.device)
    accept_missing_units(model, [])
    data = read_partly_observed(
        model,
        options.session,
        options.data,
        split=options.split,
        bins=options.bins,
        trials=options.trials,
        covariates=options.covariates,
        unit_ids=read_unit_ids(options.unit_ids),
    )
    missing = None if options.missing is None else _mask(Path(options.missing))
    data = data.hiding(missing=missing)  # like the data
    known = model.registry.session(options.session).unit_ids
    if len(data.unit_ids) < len(known):
        note = missing_units_note(options.session, len(known) - len(data.unit_ids), len(known))
        print(f"{note}: they are filled in", file=sys.stderr)
        data = with_all_units(model, data)
    units = [unit for unit in options.hide_units.split(",") if unit]
    data = data.hiding(units, [_stretch(text) for text in options.hide_bins.split(",") if text])
    if data.observed_BTC.all():
        raise ValueError("nothing is missing: give --hide-units, --hide-bins, --missing, or counts that hold NaN")
    settings = {name: getattr(options, name) for name in SETTINGS if getattr(options, name) is not None}
    made = imputed(model, data, options.samples, options.seed, **settings)
    arrays = arrays_of(model, data, made, options.level)
    return write_imputed(out, {**arrays, "seed": np.array(options.seed)})


def _stretch(text: str) -> tuple[int, int]:
    start, _, stop = text.partition(":")
    if not (start.strip().isdecimal() and stop.strip().isdecimal()):
        raise ValueError(f"--hide-bins {text!r}: expected START:STOP, such as 40:60 for bins 40 to 59")
    return int(start), int(stop)


def _mask(path: Path) -> np.ndarray:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected a bool array, True where something is missing")
    try:
        return np.array(np.lib.format.open_memmap(path, mode="r"))  # takes no archive and no pickle
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: not a whole .npy array ({error}); save it with numpy.save") from None


def _parser() -> ArgumentParser:
    parser = command_parser("impute.py", __doc__)
    parser.add_argument("--model", required=True, help="model directory")
    parser.add_argument("--session", required=True, help="session id that the model knows")
    parser.add_argument(
        "--data",
        required=True,
        help="data set, or .npy of counts (trials, bins, units), NaN where missing",
    )
    parser.add_argument("--unit-ids", default=None, help=UNIT_IDS)
    parser.add_argument("--split", default="test", choices=["train", "valid", "test"], help="of the data set")
    parser.add_argument("--bins", type=int, default=None, help="bins of a recording; default: of the shortest sample")
    parser.add_argument("--trials", type=int, default=None, help="recordings to use at most")
    parser.add_argument(
        "--covariates", default="data", help="data (the data set's), none, or an .npz (trials, bins, columns)"
    )
    parser.add_argument("--missing", default=None, help=".npy of bool (trials, bins, units) or (bins, units)")
    parser.add_argument("--hide-units", default="", help="unit ids with commas between them")
    parser.add_argument("--hide-bins", default="", help="START:STOP, several with commas between them")
    parser.add_argument("--samples", type=int, default=32, help="samples of each recording")
    parser.add_argument("--level", type=float, default=0.9, help="of the interval of the rates")
    parser.add_argument("--look-ahead-bins", type=int, default=None, help="after a gap, that weigh particles (10)")
    parser.add_argument("--particles", type=int, default=None, help="to cross a gap with (256)")
    parser.add_argument(
        "--least-share", type=float, default=None, help="bins with less of their power observed are gaps too (0)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=1.0, help="scale of the head's noise")
    parser.add_argument("--guidance", type=float, default=1.0, help="above 1: follow the covariates more")
    parser.add_argument("--head", default=None, help="'gaussian' uses the companion head of the same model")
    add_device(parser)
    parser.add_argument("--out", required=True, help=".npz to write")
    return parser


if __name__ == "__main__":
    sys.exit(main())
