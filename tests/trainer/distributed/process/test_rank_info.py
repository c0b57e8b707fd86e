"""A rank is found under every launcher."""

import pytest

from smalti.trainer.distributed.process.rank_info import RankInfo, rank_info_from_env

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
DEEPSPEED = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_SIZE": "4"}
SRUN = {
    "SLURM_STEP_ID": "0", "SLURM_JOB_ID": "17", "SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
}  # fmt: skip


@pytest.mark.parametrize("environment", [TORCHRUN, DEEPSPEED, SRUN, SRUN | {"SLURM_NTASKS_PER_NODE": "4"}])
def test_every_launcher_gives_the_same_place(environment: dict[str, str]):
    assert rank_info_from_env(environment) == RankInfo(rank=5, world=8, local_rank=1, local_world=4)


def test_without_a_launcher_the_job_is_one_process():
    assert rank_info_from_env({}) == RankInfo(0, 1, 0, 1)


def test_the_batch_shell_of_slurm_is_no_rank():
    batch_shell = {name: value for name, value in SRUN.items() if name != "SLURM_STEP_ID"}
    assert rank_info_from_env(batch_shell) == RankInfo(0, 1, 0, 1)


def test_launchers_variables_count_more_than_those_of_slurm():
    assert rank_info_from_env(SRUN | TORCHRUN | {"RANK": "7"}).rank == 7


def test_half_a_launcher_is_refused():
    with pytest.raises(ValueError, match="RANK=3 is set without WORLD_SIZE, LOCAL_RANK"):
        rank_info_from_env({"RANK": "3"})
