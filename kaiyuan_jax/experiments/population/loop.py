"""Trains a population: one program, one loop, one stacked checkpoint, and a run folder for every member at the end.

As in training/loop.py a step is dispatched before the metrics of the one before are read, and a checkpoint implies all lines before it. So
a population that was killed goes on from its newest checkpoint with the same call, and ends with the same bits and the same lines.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kaiyuan_jax import storage
from kaiyuan_jax.config import ConfigError, Experiment, UserError
from kaiyuan_jax.experiments.population import heldout, members, program, run_folders
from kaiyuan_jax.experiments.population.feed import Feed
from kaiyuan_jax.experiments.population.members import Members
from kaiyuan_jax.experiments.population.record import Record
from kaiyuan_jax.experiments.population.trained import MEMBERS, Population, read_members
from kaiyuan_jax.sharding import processes
from kaiyuan_jax.training import checkpoint, preemption, resume, state
from kaiyuan_jax.training.checkpoints import Checkpoints
from kaiyuan_jax.training.job import say
from kaiyuan_jax.training.watchdog import Watchdog


def train(
    experiments: Sequence[Experiment], folder, *, devices=None, at_once: int = 0, first_save: int = 0, folders: bool = True
) -> Population:
    """Trains all members to their last step on `devices` (default: all), or goes on where the folder's newest checkpoint stands.

    at_once: members of a device computed together (program.layout); fewer need less memory. first_save: no checkpoint before this step,
    because writing one takes longer than many steps of small members. folders: whether members get run folders at the end, which takes
    seconds for each. Members' `output` is not read. Raises ConfigError before any work for members that cannot be trained together and for
    a folder that holds others, UserError when it was told to stop (SIGTERM, Ctrl-C), having saved.
    """
    if processes.count() > 1:
        raise ConfigError(f"population: found {processes.count()} processes; start one process with all devices of one machine")
    if storage.is_remote(folder):
        raise ConfigError(f"population: found {folder}, must be a local folder")
    group, folder = members.resolve(experiments), Path(folder)
    _check_folder(folder, group)
    stores = heldout.open_stores(group.experiments, group.stores[0][0].fingerprint)
    storage.make_folder(folder)
    with resume.locked(folder):
        population = Population(folder, group.experiments)
        finished = (population.steps or [0])[-1] >= group.steps
        if finished:  # one that is not is checked where it goes on
            _check_orders(folder, group, checkpoint.progress(folder / "checkpoints" / str(population.steps[-1]))["order"], group.orders())
        entries = [dataclasses.asdict(experiment) for experiment in group.experiments]
        storage.replace(folder / MEMBERS, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
        tokenizer = Path(group.stores[0][0].folder, "tokenizer.json").read_text(encoding="utf-8")
        storage.replace(folder / "tokenizer.json", tokenizer)
        if not finished:
            members.verify(group)
            _train(group, folder, program.layout(len(group), devices, at_once), stores, first_save)
        if folders:
            run_folders.write(population, group)
    return population


def _train(group: Members, folder: Path, laid: program.Layout, stores: dict, first_save: int) -> None:
    """From the newest checkpoint to the last step."""
    first, orders = group.first, group.orders()
    settings, last = first.checkpoint, group.steps
    keep = max(settings.keep, first.averaging.last if first.averaging.kind != "none" else 1)
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(preemption.listening())
        watch = stack.enter_context(contextlib.closing(Watchdog(folder, first.health.timeout, 0, 1)))
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(folder / "checkpoints", settings, keep)))
        now, progress = _begun(group, folder, laid, checkpoints, orders)
        begin = progress.get("step", 0)
        compiling = time.perf_counter()
        update = program.update(first, laid, last)
        say(f"{len(group)} members on {laid.mesh.size} devices; step compiled in {time.perf_counter() - compiling:.1f} s")
        record = stack.enter_context(contextlib.closing(Record(group, folder, begin, progress)))
        feed = stack.enter_context(contextlib.closing(Feed(group, laid, begin)))
        rates_PT = laid.put(np.stack([schedule(np.arange(last)) for schedule in group.rates()]))
        decay_P = laid.put(np.array([experiment.optimizer.weight_decay for experiment in group.experiments], np.float32))
        diverged_P = laid.put(np.array(record.diverged, np.int32))
        for done in range(begin + 1, last + 1):
            watch.beat("read a batch", done)
            batch = feed.next()
            watch.beat("step", done)
            now, diverged_P, measured = update(now, diverged_P, batch, rates_PT, decay_P, np.int32(done - 1))
            record.read()  # of the step before, while the devices compute this one
            record.add(done, measured)
            ending = done == last or bool(stop.flag)
            saving = ending or checkpoints.failed or (done % settings.every == 0 and done >= first_save)
            evaluating = bool(stores) and (done == last or (first.evaluation.every and done % first.evaluation.every == 0))
            if not (saving or evaluating):
                continue
            record.read()
            record.overflowed(done, np.asarray(program.finite(laid)(now.params, ()))[: len(group)])
            diverged_P = laid.put(np.array(record.diverged, np.int32))
            if evaluating:
                watch.beat("evaluate", done)
                record.heldout(done, heldout.means(first, stores, laid.unpad(now.params), laid.mesh.devices.flat, laid.at_once))
            if saving:
                watch.beat("save", done)
                failed = checkpoints.failed
                save = checkpoints.save_now if ending or failed else checkpoints.save
                save(done, laid.unpad(now), record.progress(done) | {"order": orders, "rates": group.checksums()})
            if ending:
                break
    if done < last:
        reason = preemption.REASONS[stop.flag]
        raise UserError(f"{reason}: saved step {done} of {last} in {folder}; the same command goes on from there")


def _begun(group: Members, folder: Path, laid: program.Layout, checkpoints: Checkpoints, orders: list) -> tuple[state.TrainState, dict]:
    """The stacked state [P, ...] of the newest checkpoint, or a new one, and what the checkpoint says beside it."""
    found = checkpoints.newest(program.abstract(group.first, len(group), laid.saved))
    if found is None:
        return program.create(group.first, [experiment.seed for experiment in group.experiments], laid), {}
    restored, progress = found
    _check_orders(folder, group, progress["order"], orders)
    _check_rates(folder, group, progress.get("rates"))
    say(f"{folder}: resuming from step {progress['step']} of {group.steps}")
    return laid.pad(restored), progress


def _check_orders(folder: Path, group: Members, before: list[dict], after: list[dict]) -> None:
    """Raises ConfigError when a checkpoint was trained on other data: paths of stores may change, what they hold may not."""
    for name, was, now in zip(group.names, before, after, strict=True):
        resume.check_order(folder / name, was, now, "restore it, or give a new folder")


def _check_rates(folder: Path, group: Members, before: list[str] | None) -> None:
    """Raises ConfigError when a file of rates has changed since the checkpoint; None: a trunk made it, with rates of its own."""
    for experiment, was, now in zip(group.experiments, before or (), group.checksums(), strict=before is not None):
        if was != now:
            path = experiment.schedule.path
            raise ConfigError(f"{folder}: member {experiment.name} was begun with other rates than {path} gives now; restore the file")


def _check_folder(folder: Path, group: Members) -> None:
    """Raises ConfigError when the folder holds members that differ in what decides their numbers."""
    if not (folder / MEMBERS).exists():
        return
    held = read_members(folder / MEMBERS)
    headline = f"{folder} holds another population; give this one its own folder, or remove that one"
    if (names := [experiment.name for experiment in held]) != group.names:
        raise ConfigError(f"{headline}\nmembers: was {', '.join(names)}; now {', '.join(group.names)}")
    for before, after in zip(held, group.experiments, strict=True):
        if lines := resume.changes(before, after, resume.FREE):
            raise ConfigError("\n".join([headline, *(f"member {after.name}: {line}" for line in lines)]))
