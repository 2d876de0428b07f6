"""The average of the weights: its recursion at every ZeRO stage, saving and loading, also on other numbers of ranks."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from neurochorus.pretrain.averaging import WeightAverage
from neurochorus.pretrain.distributed import Ranks, process_group
from neurochorus.pretrain.engine import Engine
from neurochorus.pretrain.loop import _step
from tests.distributed import run_ranks
from tests.pretrain.test_zero_stages import SECTION, make_batch, make_stage, run_config

DECAY = 0.15  # the decay is (1 + t) / (10 + t) at first, and this from t = 1 on
CPU = torch.device("cpu")


def train(engine: Engine, ranks: Ranks, steps: range) -> list[dict[str, Tensor]]:
    """Two micro-batches a step; the plain weights after each."""
    weights = []
    for step in steps:
        engine.set_learning_rate(SECTION.learning_rate)
        batches = [make_batch(ranks.rank, 2 * step + micro) for micro in range(2)]
        _step(engine.module, engine, batches, ranks, False, chance=str(step))  # type: ignore[arg-type]
        weights.append(engine._weights())
    return weights


def averages_on_ranks(folder: Path) -> list[dict[str, bool | float]]:
    """Of ZeRO-0, and 2 and 3 with offload: how far the average is off, and whether a resumed run repeats it exactly."""
    results = []
    with process_group() as ranks:
        for zero_stage in (0, 2, 3):
            config = run_config(zero_stage, accumulation=2)
            zero = replace(config.zero, offload_optimizer=zero_stage > 0, offload_parameters=zero_stage == 3)
            config = replace(config, train=replace(config.train, ema=DECAY), zero=zero)
            engine = Engine(make_stage(planted=False), config, SECTION, ranks)
            expected = engine._weights()
            for step, weights in enumerate(train(engine, ranks, range(4))):
                decay = min(DECAY, (1 + step) / (10 + step))
                expected = {name: decay * value + (1 - decay) * weights[name] for name, value in expected.items()}
            average, plain = engine.state_dict(), engine._weights()
            tag = f"zero_{zero_stage}"
            (folder / tag).mkdir(parents=True, exist_ok=True)
            sums = engine.save(str(folder), tag).result()
            train(engine, ranks, range(4, 6))
            after = engine.state_dict()
            engine.close()
            resumed = Engine(make_stage(planted=False), config, SECTION, ranks)
            resumed.load(str(folder), tag)
            loaded = resumed.state_dict()
            train(resumed, ranks, range(4, 6))
            repeated = resumed.state_dict()
            resumed.close()
            results.append(
                {
                    "off": max(float((average[name] - expected[name]).abs().max()) for name in expected),
                    "apart": max(float((average[name] - plain[name]).abs().max()) for name in plain),
                    "saved": any("average" in Path(path).name for path in sums),
                    "loaded": all(torch.equal(average[name], loaded[name]) for name in average),
                    "repeated": all(torch.equal(after[name], repeated[name]) for name in after),
                }
            )
    return results


def test_the_average_follows_its_recursion_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    for by_stage in run_ranks(averages_on_ranks, 2, tmp_path):
        for zero_stage, found in zip((0, 2, 3), by_stage, strict=True):
            assert found["off"] < 1e-6, f"ZeRO-{zero_stage}"
            assert found["apart"] > 1e-3, "the weights moved, and their average lags behind"
            assert found["saved"]
            assert found["loaded"]
            assert found["repeated"], f"ZeRO-{zero_stage}"


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 1))  # 15, 5, 5 and 1 elements: uneven over ranks


def averages(world: int, of: nn.Module) -> list[WeightAverage]:
    return [WeightAverage(of, 0.5, Ranks(rank, world, rank, CPU)) for rank in range(world)]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_shares_of_three_ranks_go_on_on_any_number(world: int) -> None:
    saved, trained = averages(3, module()), module()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(torch.randn_like(parameter))
    for average, rank in zip(saved, range(3), strict=True):
        average._parameters = dict(trained.named_parameters())
        average.update()
        assert sum(share.numel() for share in average.state()["shares"].values()) <= 5 + 2 + 2 + 1, rank
    states = [average.state() for average in saved]
    loaded = averages(world, module())
    for average in loaded:
        average.load(states)
    for name, parameter in trained.named_parameters():
        whole = torch.cat([average.state()["shares"][name] for average in loaded])
        start = module().get_parameter(name).flatten()
        torch.testing.assert_close(whole, 0.1 * start + 0.9 * parameter.detach().flatten())
        assert {average.state()["steps"] for average in loaded} == {1}


def test_an_average_of_other_parameters_is_refused() -> None:
    states = [average.state() for average in averages(2, module())]
    other = WeightAverage(nn.Sequential(nn.Linear(4, 5)), 0.5, Ranks(0, 1, 0, CPU))
    with pytest.raises(ValueError, match=r"of other parameters than this model's: 0\.weight, 1\.bias, 1\.weight"):
        other.load(states)
    with pytest.raises(ValueError, match=r"holds no average .* train\.ema was off"):
        other.load([])
