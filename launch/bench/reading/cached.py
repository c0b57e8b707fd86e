"""How many bytes the cache of whole shards takes at most."""

import os
from pathlib import Path

from ....trainer.data.sampler import Schedule
from ....trainer.shards.reader import ShardSet
from ....trainer.shards.remote import RemoteConfig
from ....trainer.shards.writer import ShardWriter


def measure(folder: Path) -> float:
    """Reading 16 shards twice through a cache that holds five, three mixed at a time: its most over its limit."""
    with ShardWriter(folder / "far", "far", 8, {}) as writer:
        for number in range(128):
            writer.write(str(number), {"bin": bytes([number]) * 50_000})
    largest = max(path.stat().st_size for path in folder.glob("far/*.tar"))
    remote = RemoteConfig(fetch="shards", cache=str(folder / "near"), cache_gigabytes=5 * largest / 1e9)
    shards = ShardSet.open([f"file://{folder}/far/far-{{000000..000015}}.tar"], remote)
    schedule = Schedule([shards.counts], [1.0], seed=0, window=3)
    most = 0
    for number in range(2 * shards.samples):
        shards.read(*schedule.visit(number).place, "bin")
        there = sum(path.stat().st_size for path in folder.glob("near/*.tar"))
        opened = [link for link in Path("/proc/self/fd").glob("*") if os.path.realpath(link).endswith("(deleted)")]
        most = max(most, there + sum(link.stat().st_size for link in opened if str(folder) in os.path.realpath(link)))
    print(f"\nThe cache of whole shards took {most / largest:.2f} of at most 5 shards")
    return most / (5 * largest)
