"""What --check finds on nodes that differ; the whole command is in tests/launch/test_check.py."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from neurochorus.pretrain.distributed import Ranks
from neurochorus.pretrain.preflight import RankFacts, all_reduce_rate, differences
from neurochorus.pretrain.preflight.facts import code_hash, nearest_existing, read_data_sets
from neurochorus.pretrain.preflight.network import clock_offset, finds_the_same_folder
from tests.distributed import run_ranks

FACTS = [
    RankFacts(rank, f"n{rank // 2}", "H100", {"torch": "2.13.0"}, "c0de", {"data/a": "1234"}, (), 100.0, True, 0.001)
    for rank in range(6)
]


def test_equal_nodes_are_in_order() -> None:
    assert differences(FACTS, "runs/x") == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"versions": {"torch": "2.6.0"}}, "n2: torch is 2.6.0, elsewhere 2.13.0: install the same version"),
        ({"code": "0ther"}, "n2: the code of neurochorus is 0ther, elsewhere c0de: bring it to the same commit"),
        ({"data": {"data/a": "99"}}, "n2: data data/a is 99, elsewhere 1234: copy the data set again"),
        ({"data_problems": ("s.tar is missing",)}, "n2: s.tar is missing"),
        (
            {"data": {"data/a": "unreadable"}, "data_problems": ("data/a: no manifest there",)},
            "n2: data/a: no manifest",
        ),
        ({"free_gib": 0.5}, "n2: only 0.5 GiB are free at run.dir runs/x"),
        ({"shares_run_dir": False}, "n2: run.dir runs/x: what rank 0 writes there is not seen here"),
        ({"clock_s": -61.0}, "n2: its clock is -61.0 s from that of rank 0"),
    ],
)
def test_what_differs_is_said_once_with_its_node(change: dict, problem: str) -> None:
    facts = [*FACTS[:4], *(replace(fact, **change) for fact in FACTS[4:])]
    (found,) = differences(facts, "runs/x")
    assert found.startswith(problem)


def test_several_problems_of_several_nodes() -> None:
    facts = [replace(FACTS[0], code="0ther"), replace(FACTS[1], free_gib=1.0), *FACTS[2:]]
    assert [problem.split(" ")[0] for problem in differences(facts, "runs/x")] == ["n0:", "n0:"]


def test_the_code_hash_sees_any_source_file(tmp_path: Path) -> None:
    (tmp_path / "models" / "heads").mkdir(parents=True)
    file = tmp_path / "models" / "heads" / "energy.py"
    hashes = []
    for text in ("a = 1\n", "a = 2\n", "a = 1\n"):
        file.write_text(text)
        (tmp_path / "notes.txt").write_text(str(len(hashes)))
        hashes.append(code_hash(tmp_path))
    file.rename(file.with_name("flow.py"))
    assert hashes[0] == hashes[2] != hashes[1]
    assert code_hash(tmp_path) != hashes[0]


def test_data_that_is_not_there(tmp_path: Path) -> None:
    hashes, problems = read_data_sets([str(tmp_path / "nowhere")])
    assert hashes == {str(tmp_path / "nowhere"): "unreadable"}
    assert "no manifest there" in problems[0]


def test_the_folder_of_a_run_that_is_yet_to_be_made(tmp_path: Path) -> None:
    assert nearest_existing(tmp_path / "runs" / "one") == tmp_path
    assert nearest_existing(tmp_path) == tmp_path


def measure(folders: list[str]) -> tuple[bool, float, float | None]:
    dist.init_process_group("gloo")
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), 0, torch.device("cpu"))
    shares = finds_the_same_folder(Path(folders[ranks.rank]), ranks, patience_s=1.0)
    return shares, clock_offset(ranks), all_reduce_rate(ranks)


def test_two_ranks_measure_what_is_between_them(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    first, second = run_ranks(measure, 2, [str(tmp_path), str(elsewhere)])
    assert first[0]
    assert not second[0]
    assert abs(second[1]) < 1.0  # the same clock
    assert first[2] is not None
    assert first[2] > 0
    assert list(tmp_path.iterdir()) == [elsewhere]  # nothing is left behind
