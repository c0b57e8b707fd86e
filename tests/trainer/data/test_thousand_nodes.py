"""Who reads what on up to a thousand nodes, by the order's own arithmetic and without a process.

``pytest -s tests/trainer/data/test_thousand_nodes.py`` prints the table of docs/clusters.md.
"""

import numpy as np
import pytest

from smalti.trainer.data.sampler import ShardOrder

SHARDS, SAMPLES, IMAGE = 100_000, 1000, 110_000  # 100 M images of 110 KB in shards of 110 MB
ROWS, WINDOW = 8000, 10_240
SET_ROW = 45  # bytes of shards.index for a shard and its name


@pytest.fixture(scope="module")
def order() -> ShardOrder:
    counts = np.random.default_rng(0).integers(SAMPLES // 2, 3 * SAMPLES // 2, SHARDS)
    return ShardOrder(counts.tolist(), seed=1, window=WINDOW, rows=ROWS)


@pytest.mark.parametrize("nodes", [1, 8, 128, 1000])
def test_a_node_reads_its_share_of_an_epoch_and_no_more_than_its_share_of_a_window_at_a_time(order, nodes):
    readers = np.zeros(SHARDS, int)
    of_an_epoch, at_a_time = [], []
    for node in range(nodes):
        windows = order.read_by(0, range(node * ROWS // nodes, (node + 1) * ROWS // nodes))
        read = sorted({shard for window in windows for shard in window})
        readers[read] += 1
        of_an_epoch.append(len(read))
        at_a_time.append(max(map(len, windows)))
    assert readers.min() == 1 and readers.sum() <= 1.1 * SHARDS
    assert max(of_an_epoch) <= 1.2 * SHARDS / nodes + 2 * SHARDS / WINDOW
    assert max(at_a_time) <= 1.2 * WINDOW / nodes + 6
    shard, most = SAMPLES * IMAGE / 1e9, max(of_an_epoch)  # GB
    print(
        f"\n| {nodes} | {SET_ROW * SHARDS / 1e6:.1f} MB | {most} | {2 * most} | {most * shard:.0f} GB | "
        f"{SHARDS * shard:.0f} GB | {max(at_a_time)}: {max(at_a_time) * shard:.1f} GB | {readers.sum() / SHARDS:.3f} |"
    )
