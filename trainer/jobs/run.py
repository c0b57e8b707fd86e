"""From a run config to a finished training run: build the task and its streams, restore, train."""

import socket
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import torch

from .. import config as configs
from ..checkpoint.checkpointer import Checkpointer
from ..checkpoint.initial_weights import load_initial_weights
from ..checkpoint.loading import TokenizerRef
from ..checkpoint.writer import RetentionPolicy
from ..data.batch_stream import BatchStream
from ..data.streams import open_stream
from ..distributed import ranks
from ..distributed.determinism import deterministic_algorithms
from ..distributed.process import deepspeed_log
from ..distributed.sequence_parallel import SequenceGroup
from ..exit_code import ExitCode
from ..images.known_values import Check, only_labels
from ..prior import data as prior_data
from ..prior.config import PriorRun
from ..prior.task import PriorTask
from ..shards.set_index import agreed_classes
from ..training.loop import fit
from ..training.metrics import Metrics
from ..training.profiling import ProfileWindow, profiled
from ..training.throughput import Workload, own_peak
from ..vqgan.config import VQGANRun
from ..vqgan.task import VQGANTask
from . import environment, exit_codes, failures, preflight, run_dir, side_files
from .networks import checkpoint_bytes, trained_networks
from .run_data import RunData

Run = VQGANRun | PriorRun


def train(
    run: Run,
    fresh: bool,
    step_flops: Callable[[Run, int], float] | None = None,
    profile: ProfileWindow | None = None,
) -> bool:
    """Carry a run to its last step, from where it stands; False when the job was asked to leave before.

    Every rank must call this, inside ``ranks.group``.

    Args:
        fresh: remove what the folder holds of the run, and begin anew.
        step_flops: of a run and K, the codes of its images: the operations of an optimizer step, for ``mfu`` on GPUs.
        profile: steps of which rank 0 leaves a trace and prints the time of every part.

    Raises:
        ValueError: something about the run, its data or its folder is not as it must be; nothing was trained.
        SaveError: a checkpoint could not be written; those before it are as they were.
        FailedError: something else failed in mid-training, and why has been said.
        StopRequestedError: the job was asked to leave while it waited for the folder.
    """
    folder = Path(run.run_dir)
    with (
        run_dir.run_dir_lock(folder),
        exit_codes.recorded_exit_code(folder) as ending,
        deterministic_algorithms(run.deterministic),
    ):
        run_dir.claim_run_dir(folder, run, Run, fresh)
        if ranks.rank() == 0:
            side_files.remove_unfinished(folder)
        tokenizers = resolve_tokenizers(run)
        codes = _codes(run, tokenizers)
        about = preflight.check(folder, configs.dump(run), checkpoint_bytes(trained_networks(run, codes)))
        if ranks.rank() == 0:
            print(about, flush=True)
        began_on = environment.record(folder)
        deepspeed_log.write_to(folder)
        flops = None
        if step_flops is not None and own_peak() is not None and ranks.rank() == 0:
            flops = _known(step_flops, run, codes)
        torch.manual_seed(run.seed)  # the same weights on every rank
        task, training, val = built(run, tokenizers)
        settings = configs.to_mapping(run) | {"environment": began_on._asdict()}
        work = work_of(run, flops)
        metrics = Metrics(folder, run.loop.max_steps, run.wandb, settings, work, run.tensorboard)
        record = {"config": configs.to_mapping(run), "versions": preflight.versions(), "wandb": metrics.identity}
        data = RunData(training, val, task.tokenizers)
        keep = RetentionPolicy(run.keep_last, run.keep_every, run.keep_best)
        checkpoints = Checkpointer(folder, keep, data, metrics, record)
        try:
            start = checkpoints.restore(task)
            metrics.rewind(start)
            batches = profiled(metrics.timed(training.train_batches(start)), start, profile, task.parts(), folder)
            with failures.first_failure_reported(folder), closing(batches):
                done = fit(task, batches, val, run.batch.micro_batch_size, run.loop, metrics, checkpoints, start)
        finally:
            checkpoints.settle()
            metrics.close()
        ending.code = ExitCode.DONE if done else ExitCode.LEFT
        return done


def _known(step_flops: Callable[[Run, int], float], run: Run, codes: int) -> float | None:
    """The operations of a step; None and a note where they cannot be counted, for no figure may stop a run."""
    try:
        return step_flops(run, codes)
    except Exception as error:
        print(f"train/mfu will be missing: the operations of a step cannot be counted: {error}", flush=True)
        return None


def work_of(run: Run, flops: float | None) -> Workload:
    """What an optimizer step of a run works on: images, or tokens of a prior."""
    samples = run.batch.global_batch_size
    if isinstance(run, VQGANRun):
        return Workload("images", samples, flops)
    return Workload("tokens", samples * run.model.window[0] * run.model.window[1], flops)


def resolve_tokenizers(run: Run) -> dict[str, TokenizerRef]:
    """The tokenizers of a prior's run, looked up once a job; a VQGAN has none. Every rank must call this."""
    return prior_data.resolve_tokenizers(run) if isinstance(run, PriorRun) else {}


def _codes(run: Run, tokenizers: Mapping[str, TokenizerRef]) -> int:
    """K, the codes of a run's images."""
    codes: int = run.model.codebook_size if isinstance(run, VQGANRun) else tokenizers["image"].metadata["codes"]
    return codes


def built(run: Run, tokenizers: Mapping[str, TokenizerRef]) -> tuple[VQGANTask | PriorTask, BatchStream, BatchStream]:
    """The task of a run and its two streams. Every rank must call this, inside ``ranks.process_group``.

    Args:
        tokenizers: of ``resolve_tokenizers``.
    """
    if isinstance(run, VQGANRun):
        checks = {} if run.model.num_labels is None else {"segmentation": only_labels(run.model.num_labels)}
        training, val = _streams(run, run.fields, checks)
        return VQGANTask(run, training.accumulation), training, val
    prior = run.model.build(_codes(run, tokenizers), run.condition)
    load_initial_weights(prior, run.initial_weights, Path(run.run_dir), "prior")
    if run.sequence_parallel_size > 1:
        prior.share_sequence(SequenceGroup(run.sequence_parallel_size))
    made = prior_data.source(run, tokenizers, prior.condition)
    checks = made.checks(prior.condition, run.model.window)
    training, val = _streams(run, made.fields, checks, run.sequence_parallel_size)
    _check_classes(training, val, prior.condition.known.get("cls"))
    made = prior_data.completed(made, (training, val), run)
    return PriorTask(run, prior, made, training.accumulation), training, val


def _streams(
    run: Run, fields: tuple[str, ...], checks: Mapping[str, Check], together: int = 1
) -> tuple[BatchStream, BatchStream]:
    """Both streams of this rank; where one rank cannot read its shards, all of them say so.

    Args:
        checks: of the numbers in fields.
        together: neighboring ranks that get the same samples.
    """
    rank, world = ranks.rank() // together, ranks.world() // together
    place = {"rank": rank, "world": world, "micro_batch": run.batch.micro_batch_size, "seed": run.seed}
    training, val = ranks.agreed(
        lambda: [
            open_stream(data, fields, global_batch=batch, checks=checks, **place)
            for data, batch in (
                (run.train_data, run.batch.global_batch_size),
                (run.val_data, run.batch.micro_batch_size * world),
            )
        ]
    )
    _check_same_data(training, val)
    return training, val


def _check_same_data(training: BatchStream, val: BatchStream) -> None:
    """Every rank sees the same samples under the paths of the config.

    Raises:
        ValueError: a rank does not, as where a node has a stale copy on its own disk.
    """
    mine = {"train_data": (training.samples, training.fingerprint), "val_data": (val.samples, val.fingerprint)}
    first, *others = ranks.all_gather_object((socket.gethostname(), mine))
    for rank, (host, theirs) in enumerate(others, start=1):
        for name, (samples, fingerprint) in theirs.items():
            if (samples, fingerprint) != first[1][name]:
                raise ValueError(
                    f"rank {rank} on {host} finds other samples in {name} than rank 0 on {first[0]}: {samples} with "
                    f"the fingerprint {fingerprint} against {first[1][name][0]} with {first[1][name][1]}; give every "
                    "node the same shards"
                )


def _check_classes(training: BatchStream, val: BatchStream, known: range | None) -> None:
    """The names of classes agree, where classes have names, and the prior knows as many as there are.

    Raises:
        ValueError: a number has two names, or a name is beyond the prior's classes.
    """
    if known is None:
        return
    names = agreed_classes([*training.classes, *val.classes])
    if len(names) > known.stop:
        raise ValueError(
            f"the data have {len(names)} classes, {names[0]} to {names[-1]}, and the prior knows {known.stop}; set "
            f"condition.classes to {len(names)}"
        )
