"""From a manifest to videos and result rows: the whole flow."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import ray
from rich.console import Console

from manifests.read import carried_schema
from pipelines import carry_over, plan, results, storage
from pipelines.check import Check
from pipelines.checkpoint import EVERY_S
from pipelines.display import Display
from pipelines.encode_text import Encoder, EncodeText, load_encoder
from pipelines.estimate import ESTIMATE_COLUMNS, Estimate
from pipelines.generate import Generate, Generator, load_avatar, load_in_part
from pipelines.lease import Lease
from pipelines.measure import Measure
from pipelines.observers import Observer, Observers
from pipelines.outcome import RunReport
from pipelines.prepare import Prepare
from pipelines.progress import Progress, Reporter, snapshot
from pipelines.queues import Queues
from pipelines.results import WriteResult
from pipelines.rounds import check_rounds, read_files, rounds
from pipelines.separate import Separate, wants_vocals
from pipelines.sizes import LIGHT, LOAD_COLUMNS, Sizes, Work, choose_sizes, fitting, grown, loads_of
from pipelines.stage import Place, Row, place
from pipelines.watch import Bounds, Watch
from pipelines.workers import (
    Capacity,
    Pool,
    cluster,
    read_capacity,
    require_room,
    smallest_gpu_bytes,
    stop_flows,
)
from stableavatar.audio.separator import find_separator
from stableavatar.choices import RESIDENT
from stableavatar.limits import Limits
from stableavatar.model.weights import weights_hash
from stableavatar.presets import Preset

NOWHERE = Console(quiet=True, force_terminal=False)
COMPACT_EVERY = 500  # rows: to list and read many small files takes its time
GENERATE_ATTEMPTS = 20  # of Ray. How often a row may kill its generator is counted more exactly, in its checkpoint


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run does apart from how its videos look."""

    limit: int | None = None  # only the first rows of the manifest
    carry_over: bool | str = False  # first the rows that an earlier run here has left, or those of this list
    retry: frozenset[str] | None = None  # only rows that failed before, with these kinds of errors
    bounds: Bounds = field(default_factory=Bounds)
    limits: Limits = field(default_factory=Limits)
    separator: str | None = None  # file of the vocal separator; None: the one in the model's folder
    save_every_s: float = EVERY_S
    generators: int | None = None  # None: as many as the cluster has room for
    arguments: dict[str, Any] = field(default_factory=dict)  # noted with the run: `retry` starts it with them again
    observers: tuple[Observer, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Loaders:
    """What gives the networks, each called as `load(preset, device)` in the actor that is to hold them."""

    avatar: Callable[[Preset, str], Generator] = load_avatar
    encoder: Callable[[Preset, str], Encoder] = load_encoder


@dataclass(frozen=True, kw_only=True)
class Todo:
    """What a run has to do: its rows, by what becomes of them."""

    rows: list[Row]  # all of them
    to_make: list[Row]  # checked; those that failed are only written down
    unchecked: list[Row]  # the run is to stop
    done: list[Row]  # earlier runs made them
    left: list[Row]  # they failed for good in earlier runs
    passed_over: list[Row]  # they never failed, and the run is for rows that did
    measured: list[Row]  # of the result table, as far as estimates and sizes need it
    carried: str  # URI of the list whose rows come before the manifest; empty if there is none

    @property
    def failed(self) -> list[Row]:
        """Those to make of which the check has said that they cannot be made."""
        return [row for row in self.to_make if row["status"] == "failed"]

    @property
    def ready(self) -> list[Row]:
        """The others."""
        return [row for row in self.to_make if row["status"] != "failed"]

    @property
    def unmade(self) -> list[Row]:
        """The rows that the next run is to make, should this one be killed at once."""
        return [*self.to_make, *self.unchecked]


def run(
    manifest: str,
    output: str,
    preset: Preset,
    *,
    options: Options = Options(),
    loaders: Loaders = Loaders(),
    console: Console | None = None,
) -> RunReport:
    """Make the videos of a manifest that are not made yet: `<output>/videos`, and a row for each in the result table.

    Without a console nothing is printed.

    Raises ManifestError, BadInput, StorageError or LeaseHeld before any work starts if it cannot be done.
    """
    output = storage.absolute(output)
    files = plan.manifest_files(manifest, may_be_empty=bool(options.carry_over))
    storage.check_writable(output)
    observers = Observers(options.observers)
    with (
        closing(observers),
        Lease(output) as lease,
        cluster(log_to_driver=console is not None),
        Watch(options.bounds, lease.why_lost, stop_flows) as watch,
    ):
        todo = find_todo(files, output, preset, options, watch)
        list_unmade(output, files, options, todo.unmade, todo.unmade)

        progress: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Progress).remote()
        began_at = time.time()
        generate = (output, lease.holder, options.save_every_s, Reporter(progress))
        write = (output, carried_schema({"carried": plan.unpack(row)} for row in todo.rows), began_at)
        estimate, capacity = Estimate(todo.measured), grown_capacity(preset, options)
        work = Work(lengths=estimate.by_priority(todo.ready), loads=loads_of(todo.measured))
        sizes = choose_sizes(capacity, work, options.generators)
        pools = render_pools(preset, loaders, options, generate, write, sizes, wants_vocals(todo.ready))
        if todo.ready and not watch.reason:  # else nothing begins that could wait for room
            require_room(pools, capacity)

        noted = note_run(manifest, output, preset, options, todo, sizes, began_at)
        with Display(todo.to_make, estimate, lambda: snapshot(progress), console or NOWHERE) as display:
            observers.begin({"output": output, **noted})
            watch.begin(progress, sizes.num_devices, lambda: publish(display.facts(), lease, observers))
            heard, write_down = Observers([display, observers]), WriteResult(*write)
            finished = gather(map(write_down, todo.failed), heard)
            flowing = rounds(todo.ready, pools, estimate, watch, progress, write_down)
            finished |= gather(flowing, heard, lambda: results.try_to_compact(output, lease.check))
        results.compact(output, lease.check)
        report = settle(output, files, options, todo, finished, watch.reason)
        observers.end(report)
    return report


def find_todo(files: Sequence[str], output: str, preset: Preset, options: Options, watch: Watch) -> Todo:
    """Read the files of the manifest, check their rows, and look up what of them is done.

    Raises ManifestError if a file cannot be used, StorageError.
    """
    carried = carry_over.find_list(output, options.carry_over)
    rows = read_files([*files, carried] if carried else files, plan.read_file, watch)
    rows = plan.select_rows(rows, options.limit, carried, model=preset.name, weights_hash=weights_hash(preset))
    capacity = grown(read_capacity(), options.generators)  # to read the files may have brought the first nodes
    checked = check_rounds(rows, check_pools(preset, output, options, capacity), watch)
    before = results.read_results(output)
    to_make, done, left = results.split_finished(checked, before, output, options.retry)
    results.clean_up(output, done)
    return Todo(
        rows=rows,
        to_make=results.with_twins(plan.with_history(to_make, before), before, output),
        unchecked=plan.missing(rows, checked),
        done=done,
        left=left,
        passed_over=plan.missing(checked, [*to_make, *done, *left]),
        measured=before.select(sorted({*ESTIMATE_COLUMNS, *LOAD_COLUMNS})).to_pylist(),
        carried=carried,
    )


def note_run(
    manifest: str, output: str, preset: Preset, options: Options, todo: Todo, sizes: Sizes, began_at: float
) -> dict[str, Any]:
    """Note what the run is about, for `status` and `retry`. Gives what it wrote."""
    return results.write_run(
        output,
        manifest=storage.absolute(manifest) + "/" * manifest.endswith("/"),  # by which `retry` lets it be empty
        model=preset.name,
        num_rows=len(todo.rows),
        began_at=began_at,
        num_done=len(todo.done),
        left=Counter(row["error_kind"] for row in todo.left),
        num_generators=sizes.generators,
        carried_over=todo.carried,
        arguments=options.arguments,
    )


def settle(
    output: str, files: Sequence[str], options: Options, todo: Todo, finished: Mapping[Place, Row], stopped: str
) -> RunReport:
    """Remove what rows that are made need no more, and list those for the next run. Gives what came of all of them."""
    made = [row for row in todo.to_make if finished.get(place(row), row)["status"] == "ok"]
    results.clean_up(output, made)  # Ray begins a row again whose generator dies just after it
    unfinished = plan.missing(todo.unmade, finished.values())
    again = [row for row in todo.to_make if finished.get(place(row), {}).get("error_kind") in results.OUTER_KINDS]
    list_unmade(output, files, options, [*unfinished, *again], [*finished.values(), *unfinished, *todo.done])
    return RunReport(
        finished=list(finished.values()),
        unfinished=[*unfinished, *todo.passed_over],
        left=todo.left,
        done=todo.done,
        stopped=stopped,
    )


def gather(flowing: Iterable[Row], observer: Observer, compact: Callable[[], None] = lambda: None) -> dict[Place, Row]:
    """What came of each row at last: one that is tried again comes again. `compact` is called now and then."""
    finished: dict[Place, Row] = {}
    for number, row in enumerate(flowing, start=1):
        finished.pop(place(row), None)
        if row["status"] != "unfinished":
            observer.finished(row)
            finished[place(row)] = row
        if number % COMPACT_EVERY == 0:
            compact()
    return finished


def list_unmade(output: str, files: Iterable[str], options: Options, unmade: list[Row], known: list[Row]) -> None:
    """What the next run is to make first: at the end of this one, and at its begin, in case it is killed.

    What is listed already and is none of the rows `known` to this run stays listed, unless it has read the whole list.
    """
    if carry_over.list_uri(output) in files:
        return
    has_read_all = options.carry_over is True and options.retry is None
    # A row that cannot be read says too little to stand for one that was left.
    ids = None if has_read_all else {row["id"] for row in known if row["stage"] != "read"}
    carry_over.write_list(output, unmade, ids)


def publish(facts: Mapping[str, Any], lease: Lease, observers: Observer) -> None:
    """How far the run is, to those who ask its lease and to those who hear of it."""
    lease.note(facts)
    observers.tick({**facts, "waiting": Queues.lengths})


def check_pools(preset: Preset, output: str, options: Options, capacity: Capacity) -> list[Pool]:
    """What every row goes through before anything is decided.

    In tasks: an actor that dies again and again may keep its CPU, and the generator behind it would wait for ever.
    """
    check = Check(preset, output, options.limits, find_separator(preset, options.separator))
    return [Pool(stage=check, size=max(1, capacity.num_cpus // 2), num_cpus=1)]


def grown_capacity(preset: Preset, options: Options) -> Capacity:
    """What the cluster has by now, and what it is to have for this run."""
    capacity = read_capacity()
    if capacity.num_gpus_there and preset.memory in ("auto", *RESIDENT):  # other modes need the host's memory
        from stableavatar.avatar import device_bytes  # which loads for seconds

        capacity = replace(capacity, generators_per_gpu=fitting(smallest_gpu_bytes(), device_bytes(preset)))
    return grown(capacity, options.generators)


def render_pools(
    preset: Preset,
    loaders: Loaders,
    options: Options,
    generate: tuple[Any, ...],
    write: tuple[Any, ...],
    sizes: Sizes,
    separate: bool = False,
) -> list[Pool]:
    """The stages that make a video, in their order.

    `generate`: what the generators take beside preset and loader; `write`: what WriteResult takes; `separate`: whether
    some row wants its vocals separated.
    """
    separators = Pool(
        stage=Separate,
        args=(find_separator(preset, options.separator), options.limits),
        size=sizes.separate,
        least=1,
        num_cpus=sizes.separator_cpus,
    )
    return [
        Pool(stage=Prepare, args=(options.limits,), size=sizes.prepare, least=1, num_cpus=sizes.helper_cpus),
        *([separators] if separate else []),
        Pool(stage=EncodeText, args=(preset, loaders.encoder), size=sizes.encoders, num_cpus=sizes.encoder_cpus),
        Pool(
            stage=Generate,
            args=(preset, partial(load_in_part, loaders.avatar, sizes.generator_gpus), *generate),
            size=sizes.generators,
            num_cpus=sizes.generator_cpus,
            num_gpus=sizes.generator_gpus,
            queue=sizes.queue,
            attempts=GENERATE_ATTEMPTS,
        ),
        Pool(stage=Measure, size=sizes.measure, least=1, num_cpus=sizes.helper_cpus),
        Pool(stage=WriteResult, args=write, num_cpus=LIGHT),
    ]
