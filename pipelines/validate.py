"""Looking at a model while it is trained: the loss on what it never trains on, and videos with their metrics."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from manifests.read import resolve
from pipelines import cache, plan, scratch, storage
from pipelines.lines import write_lines
from pipelines.measure import columns
from pipelines.stage import Row, fail
from stableavatar.choices import CHOICES
from stableavatar.errors import BadInput, RowError
from stableavatar.model.lora import parse_loras
from stableavatar.presets import saved
from stableavatar.training.config import TrainingConfig
from stableavatar.training.encode import Sample, collate
from stableavatar.training.feed import read_sample
from stableavatar.training.objective import Source
from stableavatar.training.order import Draw, Order, seed_of
from stableavatar.training.spread import wait_for_all
from stableavatar.training.trainer import Trainer

BY_RENDER_ALONE = ("separate_vocals", "base_video", "segments")
SPAN = ("width", "height", "start_s", "end_s", "audio_stream", "pad_before_s", "pad_after_s")

logger = logging.getLogger(__name__)


class HeldOut(Sequence[Sample]):
    """Samples that are never trained on, each with its random numbers: the same every time."""

    def __init__(self, source: Source | None, seed: int):
        self.source, self.seed = source, seed

    def __len__(self) -> int:
        return len(self.source) if self.source else 0

    def __getitem__(self, index: Any) -> Sample:  # type: ignore[override]
        assert self.source is not None
        draw = Draw(position=index, index=index, seed=seed_of(self.seed, "held out", index))
        return collate([read_sample(self.source, draw, Order(len(self), self.seed))])


class Validation:
    """What a run looks at beside its curve. All workers hold one and call it together."""

    def __init__(self, config: TrainingConfig, trainer: Trainer, held_out: Source | None):
        self.config, self.trainer = config, trainer
        self.held_out = HeldOut(held_out, config.seed)

    def is_due(self) -> bool:
        """Whether there is something to look at after this step."""
        every = self.config.validation.every
        something = len(self.held_out) or self.config.validation.manifest
        return bool(something and every and self.trainer.step % every == 0)

    def run(self) -> dict[str, float]:
        """Look at everything; the numbers, of which those of videos are known to the first worker alone."""
        values = {f"held_out_{name}": value for name, value in self.trainer.evaluate(self.held_out).items()}
        if self.config.validation.manifest:
            with scratch.folder() as folder:
                self.trainer.export(Path(folder), None)
                if self.trainer.place.rank == 0:
                    values |= self._render(folder)
            wait_for_all()
        return values

    def _render(self, folder: str) -> dict[str, float]:
        uri = storage.join(self.config.output, f"validation/step-{self.trainer.step:08d}")
        try:
            return render_validation(folder, self.config, str(self.trainer.device), uri)
        except Exception:  # the training is worth more than its pictures
            logger.exception("step %d: the validation videos could not be made", self.trainer.step)
            return {}


def check_validation(config: TrainingConfig) -> None:
    """Look at a run's validation manifest before it begins. Rows that cannot be made are told in the log.

    Raises:
        ManifestError, BadInput, StorageError: it cannot be read, or none of its rows can be made.
    """
    if not config.validation.manifest:
        return
    rows = validation_rows(config)
    failed = [row["error"] for row in rows if row["status"] == "failed"]
    for problem in failed:
        logger.warning("validation, %s", problem)
    if len(failed) == len(rows):
        raise BadInput(f"validation.manifest: no row can be made. {failed[0]}")


def validation_rows(config: TrainingConfig) -> list[Row]:
    """The rows of a run's validation manifest. Those that ask for what only `render` does are failed."""
    rows = plan.select_rows(plan.read_manifest(config.validation.manifest), None)
    return [_refused(row) for row in rows]


def _refused(row: Row) -> Row:
    if row["status"] == "failed" or not (asked := [name for name in BY_RENDER_ALONE if row[name]]):
        return row
    problem = f"{asked[0]} is for `stableavatar render` alone. Give the finished sound as `audio`."
    return fail(row, "read", BadInput.kind, problem)


def render_validation(folder: str, config: TrainingConfig, device: str, uri: str) -> dict[str, float]:
    """Make the videos of a run's validation manifest with the model in `folder`.

    Videos and `metrics.jsonl` go to `uri`. Gives the mean of each metric over all videos. A row that cannot be made is
    a line with its error.
    """
    from stableavatar.api import StableAvatar

    preset = saved(folder)
    preset = replace(preset, num_steps=config.validation.num_steps or preset.num_steps)
    avatar = StableAvatar(preset, device=device)
    lines = [_render_row(avatar, row, folder, uri) for row in validation_rows(config)]
    write_lines(lines, storage.join(uri, "metrics.jsonl"))
    made = [line for line in lines if "error" not in line]
    names = [name for name, value in made[0].items() if isinstance(value, int | float)] if made else []
    return {f"video_{name}": fmean(line[name] for line in made) for name in names}


def _render_row(avatar: Any, row: Row, folder: str, uri: str) -> dict[str, Any]:
    from stableavatar.video.quality import measure_video

    path = f"{folder}/video.mp4"
    try:
        if row["status"] == "failed":
            raise RowError(row["error"])
        with ExitStack() as held:

            def here(reference: str) -> str:
                return held.enter_context(cache.fetched(resolve(reference, row["manifest"])))

            portrait, audio = here(row["portrait"]), here(row["audio"])
            words = {name: row[name] for name in (*CHOICES, *SPAN) if row.get(name) is not None}
            if row["lora"]:
                loras = parse_loras(row["lora"])
                words["lora"] = ",".join(f"{here(reference)}:{weight:g}" for reference, weight in loras)
            avatar.generate(portrait, audio, path, **words)
        storage.publish(path, storage.join(uri, f"{row['id']}.mp4"))
        return {"id": row["id"], **columns(measure_video(path))}
    except RowError as error:
        logger.warning("validation, %s: %s", row["id"], error)
        return {"id": row["id"], "error": str(error)}
