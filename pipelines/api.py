"""What `stableavatar render` and `retry` do, from Python: the command line translates its words and calls these."""

import json
import os
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from manifests.redact import HIDDEN, redacted
from pipelines import results, storage
from pipelines.checkpoint import EVERY_S
from pipelines.look import AUTO, Look
from pipelines.observers import Observer
from pipelines.outcome import RenderResult, outcome
from pipelines.report import ReportWriter
from pipelines.terminal import RunError, plain_errors
from pipelines.values import amount, moment, node_file, one_of, parse_argument, positive, with_limits
from stableavatar.checkpoints.layout import VARIANTS
from stableavatar.errors import KINDS, BadInput
from stableavatar.limits import Limits
from stableavatar.presets import Preset

if TYPE_CHECKING:
    from rich.console import Console

Location = str | os.PathLike[str]

_one_at_a_time = threading.Lock()  # runs share their process's connection to Ray, and what ends it


def render(
    manifest: Location,
    output: Location,
    *,
    model: str | Preset = "tiny",
    weights: str = VARIANTS[0],
    settings: Mapping[str, Any] | None = None,
    lora: str = "",
    separator: Location | None = None,
    memory: str = AUTO,
    attention: str = AUTO,
    limit: int | None = None,
    limits: Limits = Limits(),
    carry_over: bool | str = False,
    retry: Collection[str] | None = None,
    stop_by: datetime | str | None = None,
    max_gpu_hours: float | None = None,
    save_every_s: float = EVERY_S,
    generators: int | None = None,
    webhooks: Sequence[str] = (),
    observers: Sequence[Observer] = (),
    console: "Console | None" = None,
) -> RenderResult:
    """Make the videos of a manifest that are not made yet, on the cluster that this process is connected to.

    Without one on that of RAY_ADDRESS, else on this machine. May be called from any thread; only in the main thread is
    SIGTERM a reason to stop in order. One call at a time in a process.

    Args:
        manifest: JSONL, CSV or Parquet, or a folder of them; path or URI.
        output: folder or URI for videos and results.
        model: name of a preset, folder of a published or trained model, or a preset of your own.
        weights: which weights of a published model, `square` or `rec-vec`.
        settings: what rows that say nothing take, such as `{"num_steps": 30}`; see stableavatar.choices.CHOICES.
        lora: LoRA files for rows that name none: `first.safetensors:0.8,second.safetensors`.
        separator: vocal separator for rows with separate_vocals (MDX-Net, ONNX), at this path on every node.
        memory: where the networks live, one of stableavatar.choices.MODES; `auto` leaves it to the preset.
        attention: kernel, one of stableavatar.choices.BACKENDS; `auto` leaves it to the preset.
        limit: only the first rows of the manifest.
        limits: which files rows may name, and how large they may be.
        carry_over: True makes first, before any priority, the rows that an earlier run on this output has left; the
            manifest's words count where it has a row of the same id. Or the URI of another such list.
        retry: only rows that failed before with these kinds of errors, of stableavatar.errors.KINDS.
        stop_by: end in order at this time, local unless it says its zone; `06:30` is the next one that comes.
        max_gpu_hours: end in order when all generators together have run so long.
        save_every_s: save videos that are being made this often, so that a kill costs no more.
        generators: so many; see pipelines.sizes for how many there are without it.
        webhooks: addresses that hear of each finished row, and of the end; see pipelines.webhooks.
        observers: who else hears of the run.
        console: where to show how far it is. Nothing is printed without; progress goes to the log of `pipelines`.

    Raises:
        ManifestError: the manifest cannot be used at all.
        BadInput: an argument is not usable. Of rows this is never raised: their errors are in the result.
        StorageError: the output or the manifest cannot be reached.
        WeightsError: there is no such model, or its files are missing or damaged.
        RunError: Ray failed, the cluster is too small, or another run works on this output or in this process.
    """
    from pipelines.run import Options, run  # which loads Ray and torch
    from pipelines.watch import Bounds

    look = Look.of(model=model, weights=weights, settings=settings, lora=lora, memory=memory, attention=attention)
    preset = look.preset()
    own: dict[str, Any] = {
        "separator": parse_argument("separator", node_file, separator),
        "limit": parse_argument("limit", positive, limit),
        "save_every_s": parse_argument("save_every_s", amount, save_every_s),
        "generators": parse_argument("generators", positive, generators),
        "limits": replace(limits, inputs=tuple(map(storage.absolute, limits.inputs))),
    }
    options = Options(
        **own,
        carry_over=carry_over,
        retry=None if retry is None else frozenset(parse_argument("retry", one_of(KINDS), kind) for kind in retry),
        bounds=Bounds(
            stop_by=parse_argument("stop_by", moment, stop_by),
            max_gpu_hours=parse_argument("max_gpu_hours", amount, max_gpu_hours),
        ),
        arguments=arguments_to_note(look, **own),
        observers=(*observers_of(webhooks), *observers),
    )
    manifest, output = os.fspath(manifest), os.fspath(output)
    with one_run_at_a_time(), plain_errors():
        return outcome(output, run(manifest, output, preset, options=options, console=console))


def retry(
    output: Location,
    *,
    kinds: Collection[str] = KINDS,
    stop_by: datetime | str | None = None,
    max_gpu_hours: float | None = None,
    save_every_s: float | None = None,
    generators: int | None = None,
    webhooks: Sequence[str] = (),
    observers: Sequence[Observer] = (),
    console: "Console | None" = None,
) -> RenderResult:
    """Make the rows again that failed, as the newest run on this output was told to.

    Rows that it has not made and that never failed are left to `render`: they are `unfinished` in the result.

    Args:
        output: what was given to `render`.
        kinds: only those that failed like this.
        stop_by: as in `render`, as are all the others; what is not given is as it was.
        max_gpu_hours: for this run.
        save_every_s: for this run.
        generators: for this run.
        webhooks: for this run.
        observers: who else hears of the run.
        console: where to show how far it is.

    Raises:
        BadInput: no run on this output can be repeated.
        ManifestError, StorageError, WeightsError, RunError: as `render`.
    """
    run, shown = results.read_run(os.fspath(output)), redacted(os.fspath(output))
    if not run or not run.get("arguments"):
        raise BadInput(
            f"{shown} holds no run that could be repeated: give what was given to render --output. A run whose preset "
            "Python made is repeated by its own call, with retry."
        )
    if HIDDEN in json.dumps(run):
        raise BadInput(f"the run on {shown} was given credentials, which are not kept. Give its command again.")
    own = {"save_every_s": save_every_s, "generators": generators}
    again = arguments_from_note(run["arguments"]) | {name: value for name, value in own.items() if value is not None}
    again |= {"carry_over": run.get("carried_over") or False}
    until: dict[str, Any] = {"stop_by": stop_by, "max_gpu_hours": max_gpu_hours}
    hearers: dict[str, Any] = {"webhooks": webhooks, "observers": observers, "console": console}
    return render(run["manifest"], output, retry=kinds, **again, **until, **hearers)


def observers_of(webhooks: Sequence[str]) -> tuple[Observer, ...]:
    """Who hears of every run, beside those of its caller."""
    from pipelines.metrics import Metrics  # which loads Ray
    from pipelines.traces import Traces
    from pipelines.webhooks import Webhooks

    traces = Traces.from_environment()
    return (Metrics(), ReportWriter(), *([traces] if traces else []), *([Webhooks(webhooks)] if webhooks else []))


def arguments_to_note(look: Look, *, limits: Limits, **own: Any) -> dict[str, Any]:
    """The arguments of a run, to be noted with it as JSON, for `retry`. {} where JSON cannot hold them."""
    noted = look.to_note()
    return {**noted, **asdict(limits), **own} if noted else {}


def arguments_from_note(noted: Mapping[str, Any]) -> dict[str, Any]:
    """Noted arguments as `render` takes them."""
    return with_limits({name: value for name, value in noted.items() if value is not None})


@contextmanager
def one_run_at_a_time() -> Iterator[None]:
    """Raises RunError if another run goes on in this process: the first to end would end the other."""
    if not _one_at_a_time.acquire(blocking=False):
        raise RunError("another run goes on in this process. Wait for it, or begin this one in a process of its own.")
    try:
        yield
    finally:
        _one_at_a_time.release()
