"""launch/cluster/slurm.sbatch without Slurm: a made-up srun ends as it is told, and scontrol notes that it was called.

tests/cluster runs the script under a real one.
"""

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.launch.test_pipeline import ROOT

SCRIPT = ROOT / "launch" / "cluster" / "slurm.sbatch"
SRUN = """#!/bin/bash
echo "$SRUN_CPUS_PER_TASK $OMP_NUM_THREADS" > "$FOLDER/threads"
if [ -n "$SAVES" ]; then mkdir -p "$RUN/checkpoints/$SAVES" && touch "$RUN/checkpoints/$SAVES/COMPLETE.json"; fi
if [ -n "$AT_LIMIT" ]; then trap 'exit 0' USR1; kill -USR1 $PPID; sleep 5 > /dev/null 2>&1 & wait; fi
exit $STATUS
"""


@dataclass
class Job:
    """A job and what it has done so far."""

    folder: Path
    restarts: int = 0
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def live(self, status: int, saves: str = "", at_limit: bool = False) -> bool:
        """Start the job's script once; whether it asked to be requeued. `saves`: STAGE/STEP of a new checkpoint."""
        asked = self.folder / "requeued"
        asked.unlink(missing_ok=True)
        environment = {
            **{name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"},
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            **{"FOLDER": str(self.folder), "RUN": str(self.run), "STATUS": str(status), "SAVES": saves},
            **{"AT_LIMIT": "yes" if at_limit else "", "SLURM_JOB_ID": "7"},
            **({"SLURM_RESTART_COUNT": str(self.restarts)} if self.restarts else {}),
            **self.environment,
        }
        done = subprocess.run(["bash", SCRIPT, self.run], env=environment, capture_output=True, text=True, timeout=30)
        assert done.returncode == status, done.stderr
        self.restarts += 1
        return asked.exists()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    for name, text in (("srun", SRUN), ("scontrol", '#!/bin/bash\necho "$@" > "$FOLDER/requeued"\n')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return Job(tmp_path, environment={"SLURM_CPUS_PER_TASK": "8"})


def test_time_limits_do_not_use_up_the_restarts_of_lost_ranks(job: Job) -> None:
    """With SLURM_RESTART_COUNT a run of a month ended at the first lost rank after ten days."""
    for day in range(1, 13):
        assert job.live(0, saves=f"autoencoder/step_{day:08d}", at_limit=True)
    assert job.live(75)
    assert (job.folder / "requeued").read_text() == "requeue 7\n"


def test_restarts_without_a_new_checkpoint_end(job: Job) -> None:
    assert job.live(75, saves="autoencoder/step_00000005")
    assert [job.live(137) for _ in range(10)] == [True] * 9 + [False]
    assert job.live(75, saves="dynamics/step_00000001"), "the next stage starts to count its steps anew"
    assert job.live(75)


def test_a_job_that_is_submitted_again_starts_to_count_anew(job: Job) -> None:
    assert [job.live(75) for _ in range(11)] == [True] * 10 + [False]
    job.restarts = 0
    assert job.live(75)


@pytest.mark.parametrize("status", [0, 1, 143])
def test_what_has_ended_by_itself_is_left_alone(job: Job, status: int) -> None:
    assert not job.live(status)


def test_ranks_get_the_cpus_of_the_job(job: Job) -> None:
    job.live(0)
    assert (job.folder / "threads").read_text() == "8 4\n"
    job.environment = {"SLURM_CPUS_PER_TASK": "1", "OMP_NUM_THREADS": "3"}
    job.live(0)
    assert (job.folder / "threads").read_text() == "1 3\n"
