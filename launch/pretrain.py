"""Pretrain a model: autoencoder, then dynamics, then export.

deepspeed --num_gpus 2 launch/pretrain.py --config launch/configs/steinmetz2019.yaml [section.key=value ...]
deepspeed launch/pretrain.py                      the demo configuration on the built-in animals
python launch/pretrain.py --config CONFIG         the same on one process
python launch/pretrain.py --config CONFIG --dry-run --world 64     what it would cost
"""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("neurochorus") is None:  # not installed: use the checkout that this file lies in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "typings"))

from jsonargparse import ArgumentParser

from neurochorus.data_shards.settings import read_settings
from neurochorus.launch.checking import check
from neurochorus.launch.demo_data import ensure_demo_data
from neurochorus.launch.dry_run import add_dry_run, run_dry
from neurochorus.launch.options import command_parser, overrides_last
from neurochorus.launch.training import run_training
from neurochorus.pretrain.config import RunConfig
from neurochorus.pretrain.distributed import Ranks
from neurochorus.pretrain.pretraining import pretrain

DEMO = Path(__file__).resolve().parent / "configs" / "demo.yaml"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(overrides_last(sys.argv[1:] if arguments is None else arguments))

    def train(config: RunConfig, ranks: Ranks) -> Path | None:
        if options.config is None:
            ensure_demo_data(config, ranks)
        if options.check:
            return check(config, ranks)
        return pretrain(config, ranks)

    flags = {"run.resume": options.resume_from, "run.init": options.init_from}
    overrides = [*options.overrides, *(f"{name}={path}" for name, path in flags.items() if path is not None)]

    def configure() -> RunConfig:
        return read_settings(RunConfig, options.config or DEMO, overrides)

    return run_dry(configure, options) if options.dry_run else run_training(configure, train)


def _parser() -> ArgumentParser:
    parser = command_parser("pretrain.py", __doc__)
    parser.add_argument("--config", default=None, help="YAML of the run; without it the demo runs")
    parser.add_argument(
        "--resume-from",
        metavar="CHECKPOINT",
        help="go back to it, or continue it in a new run.dir; such as runs/mine/checkpoints/dynamics/step_00001000",
    )
    parser.add_argument(
        "--init-from", metavar="PATH", help="start from the weights of a model, run or checkpoint, at step 0"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="compare the nodes, measure the network, and end: 1 when something is wrong",
    )
    add_dry_run(parser)
    parser.add_argument("--local_rank", type=int, default=0, help="set by the deepspeed launcher; not used")
    parser.add_argument("overrides", nargs="*", default=[], help="section.key=value, put over the file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
