"""From a manifest to videos and result rows: the whole flow."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from rich.console import Console

from manifests.read import carried_schema
from pipelines import plan, results, storage
from pipelines.check import Check
from pipelines.display import Display
from pipelines.encode_text import Encoder, EncodeText
from pipelines.generate import Generate, Generator
from pipelines.measure import Measure
from pipelines.prepare import Prepare
from pipelines.progress import Progress, Reporter
from pipelines.results import WriteResult
from pipelines.stage import Row
from pipelines.workers import Capacity, Pool, cluster, flow, read_files, require_room
from stableavatar.avatar import Avatar
from stableavatar.limits import Limits
from stableavatar.model.conditions import TextEncoder
from stableavatar.model.weights import weights_hash
from stableavatar.presets import Preset

LIGHT = 0.25  # logical CPUs of a stage beside the generator: four of them and one generator fit on two cores


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """What came of a run. `finished`: the rows it brought to an end. `num_done_before`: rows done by earlier runs."""

    finished: list[Row]
    num_done_before: int


def render(
    manifest: str,
    output: str,
    preset: Preset,
    *,
    limit: int | None = None,
    limits: Limits = Limits(),
    load_avatar: Callable[[Preset, str], Generator] = Avatar.load,
    load_encoder: Callable[[Preset, str], Encoder] = TextEncoder.load,
    console: Console | None = None,
) -> RunReport:
    """Make the videos of a manifest that are not made yet: `<output>/videos`, and a row for each in `<output>/results`.

    Raises ManifestError, BadInput or StorageError before any work starts if manifest or output cannot be used.
    """
    output = storage.absolute(output)
    files = plan.manifest_files(manifest)
    storage.check_writable(output)
    with cluster() as capacity:
        rows = read_files(files, plan.read_rows)
        rows = plan.select_rows(rows, limit, model=preset.name, weights_hash=weights_hash(preset))
        rows = plan.with_lost(rows, flow(rows, check_pools(preset, output, capacity, limits)), "check")
        before = results.read_results(output)
        todo, done, left = results.split_finished(rows, before, output)
        results.write_run(output, manifest=storage.absolute(manifest), model=preset.name, num_rows=len(rows))

        progress: Any = ray.remote(num_cpus=0)(Progress).remote()  # a handle, which has no type
        write = (output, carried_schema({"carried": plan.unpack(row)} for row in rows))
        pools = render_pools(preset, capacity, load_avatar, load_encoder, Reporter(progress), write, limits)
        require_room(pools, capacity)
        finished = left
        with Display(todo, lambda: ray.get(progress.snapshot.remote()), console or Console()) as display:
            for row in flow(plan.longest_first(todo), pools):
                display.finished(row)
                finished.append(row)
        lost = plan.with_lost(todo, finished, "")[len(finished) :]
        finished += map(WriteResult(*write), lost)
    return RunReport(finished=finished, num_done_before=len(done))


def check_pools(preset: Preset, output: str, capacity: Capacity, limits: Limits = Limits()) -> list[Pool]:
    """What every row goes through before anything is decided.

    In tasks: an actor that dies again and again may keep its CPU, and the generator behind it would wait for ever.
    """
    return [Pool(stage=Check(preset, output, limits), size=max(1, capacity.num_cpus // 2), num_cpus=1)]


def render_pools(
    preset: Preset,
    capacity: Capacity,
    load_avatar: Callable[[Preset, str], Generator],
    load_encoder: Callable[[Preset, str], Encoder],
    reporter: Reporter,
    write: tuple[Any, ...],
    limits: Limits = Limits(),
) -> list[Pool]:
    """The stages that make a video, in their order. One generator for each GPU; without GPUs, on half of the CPUs."""
    has_gpus = capacity.num_gpus > 0
    generators = capacity.num_gpus if has_gpus else max(1, capacity.num_cpus // 2)
    helpers = max(1, min(capacity.num_cpus // 4, generators))  # of each kind, for all generators
    encoder_cpus = max(LIGHT, capacity.num_cpus // 8)  # Ray gives an actor as many threads
    # A row that waits behind a long one, while another generator is free, would come last: hence queue=1.
    generate = (preset, load_avatar, reporter)
    return [
        Pool(stage=Prepare, args=(limits,), size=helpers, num_cpus=LIGHT),
        Pool(stage=EncodeText, args=(preset, load_encoder), num_cpus=encoder_cpus),
        Pool(stage=Generate, args=generate, size=generators, num_cpus=1, num_gpus=1 if has_gpus else 0, queue=1),
        Pool(stage=Measure, size=helpers, num_cpus=LIGHT),
        Pool(stage=WriteResult, args=write, num_cpus=LIGHT),
    ]
