"""Where a process stands in its job, from the variables of whoever started it. Imports nothing that takes time."""

import subprocess
from collections.abc import Mapping
from typing import NamedTuple


class RankInfo(NamedTuple):
    """Where this process stands in its job."""

    rank: int
    world: int
    local_rank: int
    local_world: int


def rank_info_from_env(environment: Mapping[str, str]) -> RankInfo:
    """The place that the launcher's variables name; a world of one where there are none.

    SLURM's variables count only inside a step (SLURM_STEP_ID): the batch shell has SLURM_PROCID=0 too.

    Raises:
        ValueError: RANK is there without the rest.
    """
    if "RANK" in environment:
        missing = [name for name in ("WORLD_SIZE", "LOCAL_RANK") if name not in environment]
        if missing:
            raise ValueError(f"RANK={environment['RANK']} is set without {', '.join(missing)}; launch with deepspeed")
        world = int(environment["WORLD_SIZE"])
        local_world = int(environment.get("LOCAL_WORLD_SIZE", environment.get("LOCAL_SIZE", world)))
        return RankInfo(int(environment["RANK"]), world, int(environment["LOCAL_RANK"]), local_world)
    if "SLURM_STEP_ID" in environment and "SLURM_PROCID" in environment:
        world = int(environment["SLURM_NTASKS"])
        per_node = environment.get("SLURM_NTASKS_PER_NODE") or environment["SLURM_STEP_TASKS_PER_NODE"].split("(")[0]
        return RankInfo(
            int(environment["SLURM_PROCID"]), world, int(environment["SLURM_LOCALID"]), int(per_node.split(",")[0])
        )
    return RankInfo(0, 1, 0, 1)


def address(environment: Mapping[str, str]) -> tuple[str, str]:
    """The host and the port at which the ranks of a launcher or of SLURM meet: under SLURM the first host of the job
    and a port derived from its number.
    """
    if "RANK" in environment:
        return environment["MASTER_ADDR"], environment["MASTER_PORT"]
    hosts = subprocess.run(
        ["scontrol", "show", "hostnames", environment["SLURM_STEP_NODELIST"]],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return hosts.stdout.split()[0], str(20_000 + int(environment["SLURM_JOB_ID"]) % 20_000)
