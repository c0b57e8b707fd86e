"""Work spread over processes that end when the one that started them is killed."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TypeVar

from ...models.bounds import MOST_PROCESSES
from ..distributed.child_processes import check_semaphores, end_with, usable_cores

Task = TypeVar("Task")
Result = TypeVar("Result")


def spread(work: Callable[[Task], Result], tasks: Sequence[Task], processes: int) -> Iterator[tuple[Task, Result]]:
    """Does every task, and gives each with its result when it is done; in order where one process does all.

    Args:
        work: a function of a module, which can be pickled.
        tasks: can be pickled too.
        processes: at once; 0 for one a core that this process may use.

    Raises:
        ValueError: nobody could start so many processes, or the machine has no shared memory for them.
    """
    if not 0 <= processes <= MOST_PROCESSES:
        raise ValueError(f"processes must be from 0 to {MOST_PROCESSES}, got {processes}")
    count = min(processes or usable_cores(), len(tasks))
    if count <= 1:
        for task in tasks:
            yield task, work(task)
        return
    check_semaphores(count)
    context = get_context("spawn")  # a forked process would hold copies of its parent's locks
    with ProcessPoolExecutor(count, mp_context=context, initializer=end_with, initargs=(os.getpid(),)) as pool:
        futures = {pool.submit(work, task): task for task in tasks}
        for future in as_completed(futures):
            yield futures[future], future.result()
