"""Ranks from the environments that launchers make."""

import pytest

from neurochorus.pretrain.launcher import JOB_PORTS, first_host, rank_environment

SLURM = {  # printed by `srun -N 3 --ntasks-per-node=2 env` in task 4; NTASKS as the allocation had it
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "4",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "2",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3)",
    "SLURM_JOB_NODELIST": "gpu[003-006]",
    "SLURM_STEP_NODELIST": "gpu[004-006]",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
TORCHRUN = {
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "MASTER_ADDR": "a",
    "MASTER_PORT": "1",
    "LOCAL_SIZE": "2",
}


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("gpu003", "gpu003"),
        ("gpu003,gpu007", "gpu003"),
        ("gpu[003-005,9],login1", "gpu003"),
        ("gpu[7,9-11]", "gpu7"),
        ("rack[2-3]-node[04-05].lab", "rack2-node04.lab"),
        ("a-b1.lab.org", "a-b1.lab.org"),
    ],
)
def test_the_first_host_of_a_node_list(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


@pytest.mark.parametrize("nodes", ["", ",a", "gpu[3-5", "gpu3]"])
def test_what_is_no_node_list(nodes: str) -> None:
    with pytest.raises(ValueError, match="does not start with the name of a host"):
        first_host(nodes)


def test_tasks_of_srun() -> None:
    assert rank_environment(SLURM) == {
        "RANK": "4",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "6",
        "LOCAL_SIZE": "2",
        "MASTER_ADDR": "gpu004",
        "MASTER_PORT": "26041",  # 20,000 + 31 * 4711 % 10,000
    }


def test_jobs_and_their_steps_get_ports_of_their_own() -> None:
    ports = {
        int(rank_environment({**SLURM, "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)})["MASTER_PORT"])
        for job in range(4711, 4731)
        for step in range(20)
    }
    assert len(ports) == 400
    assert ports <= set(JOB_PORTS)


def test_nodes_with_different_numbers_of_tasks() -> None:
    uneven = {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "4(x2),1,3"}
    assert [rank_environment({**uneven, "SLURM_NODEID": node})["LOCAL_SIZE"] for node in "0123"] == ["4", "4", "1", "3"]


@pytest.mark.parametrize("step", [None, "4294967291", "4294967290"])
def test_a_batch_script_or_an_interactive_shell_is_no_task(step: str | None) -> None:
    """They have SLURM_PROCID 0 and SLURM_NTASKS of the allocation: taken for a rank, one would wait for the others."""
    shell = {name: value for name, value in SLURM.items() if name != "SLURM_STEP_ID"}
    found = rank_environment(shell if step is None else {**shell, "SLURM_STEP_ID": step})
    assert (found["RANK"], found["WORLD_SIZE"], found["MASTER_ADDR"]) == ("0", "1", "127.0.0.1")


def test_what_is_set_goes_before_what_is_derived() -> None:
    assert rank_environment({**SLURM, **TORCHRUN}) == TORCHRUN
    chosen = rank_environment({**SLURM, "MASTER_ADDR": "10.0.0.4", "MASTER_PORT": "1234"})
    assert (chosen["RANK"], chosen["MASTER_ADDR"], chosen["MASTER_PORT"]) == ("4", "10.0.0.4", "1234")
    assert rank_environment(rank_environment(SLURM)) == rank_environment(SLURM)


def test_mpirun_inside_a_slurm_job_is_asked_first() -> None:
    found = rank_environment({**SLURM, **OPEN_MPI})
    assert found == {
        "RANK": "1",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
    }


def test_hydra() -> None:
    hydra = {"PMI_RANK": "2", "PMI_SIZE": "4", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2", "MASTER_ADDR": "n1"}
    found = rank_environment(hydra)
    assert [found[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE")] == ["2", "0", "4", "2"]
    assert found["MASTER_ADDR"] == "n1"


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, ["LOCAL_RANK, MASTER_ADDR, MASTER_PORT not set", "RANK=0, WORLD_SIZE=2"]),
        ({"WORLD_SIZE": "2"}, ["RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT not set", "deepspeed or torchrun"]),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, ["MASTER_ADDR not set", "from Open MPI", "set it for every"]),
        ({"SLURM_PROCID": "0", "SLURM_STEP_ID": "0"}, ["LOCAL_RANK, WORLD_SIZE, MASTER_ADDR", "from Slurm"]),
        ({**TORCHRUN, "RANK": "one"}, ["RANK is 'one', expected a number"]),
        ({**TORCHRUN, "RANK": "4"}, ["RANK is 4 and WORLD_SIZE 4"]),
    ],
)
def test_what_is_missing_is_said(environment: dict[str, str], words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        rank_environment(environment)
    for word in words:
        assert word in str(caught.value)


def test_without_a_launcher_there_is_one_rank() -> None:
    found = rank_environment({"PATH": "/bin", "SLURM_CONF": "/etc/slurm.conf"})
    assert (found["RANK"], found["WORLD_SIZE"], found["LOCAL_SIZE"], found["MASTER_PORT"]) == ("0", "1", "1", "0")
