"""What a folder of published weights holds, and whether it can be used: seen from the files' tables of contents.

Reading those takes seconds and no GPU. Hashes and checksums read every byte and are asked for.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from stableavatar.checkpoints import layout
from stableavatar.checkpoints.hashes import HashBook
from stableavatar.checkpoints.layout import Layout, recognise
from stableavatar.checkpoints.tensorfile import damaged_record, open_tensors
from stableavatar.errors import WeightsError
from stableavatar.model.conditions import text_tokenizer
from stableavatar.model.networks import AUDIO, COMPONENTS
from stableavatar.model.weights import Component, empty_network, matched
from stableavatar.presets import Preset, PublishedWeights, SavedWeights, published_sizes


@dataclass(frozen=True, kw_only=True)
class FileReport:
    """One file of a folder."""

    path: str  # relative to the folder
    use: str  # what it is for
    required: bool
    num_bytes: int | None  # None: missing
    num_tensors: int | None = None
    sha256: str = ""  # empty: not asked for
    problem: str = ""  # empty: as it should be, as far as was looked

    @property
    def is_fine(self) -> bool:
        """Whether the model can be used as far as this file goes."""
        return not self.problem and (self.num_bytes is not None or not self.required)


@dataclass(frozen=True, kw_only=True)
class FolderReport:
    """A folder of published weights."""

    folder: Path
    size: str
    files: tuple[FileReport, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """One sentence for each thing that keeps the model from being used."""
        return tuple(
            file.problem or f"{self.folder / file.path} is missing ({file.use})"
            for file in self.files
            if not file.is_fine
        )


def inspect_folder(folder: str | Path, *, hashes: bool = False, checksums: bool = False) -> FolderReport:
    """Look at every file that the authors publish for the model in a folder: see `inspect_model`.

    Raises:
        WeightsError: the folder holds no model, or more than one.
    """
    found = recognise(folder)
    preset = published_sizes(PublishedWeights(folder=str(found.folder), size=found.size), audio={})
    return inspect_model(preset, found.variants(), hashes=hashes, checksums=checksums)


def inspect_model(
    preset: Preset,
    variants: tuple[str, ...],
    *,
    without: Collection[str] = (),
    hashes: bool = False,
    checksums: bool = False,
) -> FolderReport:
    """Look at the files of a preset, with these of the transformer's weights.

    Args:
        preset: of published weights.
        variants: of the transformer's weights; the first is reported as missing if there are none.
        without: parts whose weights come from elsewhere.
        hashes: also hash each file (remembered for the next time), and compare with what was downloaded.
        checksums: also read the zip files whole and compare the checksums in them.
    """
    assert isinstance(preset.weights, PublishedWeights)
    found = preset.weights.layout
    files = []
    for path, use, required, check in _expected(preset, variants or layout.VARIANTS[:1], without):
        report = _look_at(found.folder, path, use, required, check)
        if hashes and not report.problem and report.num_bytes is not None:
            report = _hashed(found.folder, report)
        if checksums and not report.problem and report.num_tensors and not report.path.endswith(".safetensors"):
            report = _summed(found.folder, report)
        files.append(report)
    return FolderReport(folder=found.folder, size=found.size, files=tuple(files))


def verify_folder(preset: Preset) -> None:
    """Check that the files which a preset needs are there, whole, and hold exactly its networks' tensors.

    Raises:
        WeightsError: lists everything that is wrong.
    """
    own = preset.weights.files if isinstance(preset.weights, SavedWeights) else {}
    base = preset.weights.base if isinstance(preset.weights, SavedWeights) else preset.weights
    if isinstance(base, PublishedWeights):
        problems = inspect_model(replace(preset, weights=base), (base.transformer,), without=own).problems
        if problems and own:
            problems += (f"What {preset.name} does not hold itself comes from the `base` that its model.json names.",)
        if problems:
            raise WeightsError("\n".join(["the weights cannot be used:", *problems]))
    for component in (*COMPONENTS, AUDIO):
        if component.part in own:
            path = Path(own[component.part])
            matched(replace(component, rename=dict), empty_network(component, preset), open_tensors(path), path)


Check = Callable[[Path], int | None]  # number of tensors, if it holds some; raises WeightsError


def _expected(
    preset: Preset, variants: tuple[str, ...], without: Collection[str]
) -> Iterator[tuple[Path, str, bool, Check]]:
    """Every file of the published folder: where, what for, whether it must be there, and how to check it."""
    assert isinstance(preset.weights, PublishedWeights)
    found = preset.weights.layout
    for component in (component for component in COMPONENTS if component.part not in without):
        for variant in variants if component.part == "transformer" else variants[:1]:
            use = f"transformer, {variant}" if component.part == "transformer" else f"{component.part} network"
            yield found.tensors(component.part, variant), use, True, _fits(component, preset)
    if AUDIO.part not in without:
        yield found.audio_weights(), "audio network", True, lambda path: len(open_tensors(path))
        yield found.audio / "config.json", "audio network", True, _is_file
    yield from _tokenizer(preset, found)
    yield Path(layout.VOCALS), "vocal separation, if rows ask for it", False, _is_file


def _tokenizer(preset: Preset, found: Layout) -> Iterator[tuple[Path, str, bool, Check]]:
    paths = found.tokenizer_files() or [found.tokenizer / "tokenizer.json"]

    def loads(path: Path) -> None:
        text_tokenizer(preset)

    yield paths[0], "tokenizer", True, loads
    yield from ((path, "tokenizer", True, _is_file) for path in paths[1:])


def _fits(component: Component, preset: Preset) -> Check:
    def check(path: Path) -> int:
        tensors = open_tensors(path)
        matched(component, empty_network(component, preset), tensors, path)
        return len(tensors)

    return check


def _is_file(path: Path) -> None:
    if path.stat().st_size == 0:
        raise WeightsError(f"{path} is empty. Fetch it again.")


def _look_at(folder: Path, path: Path, use: str, required: bool, check: Check) -> FileReport:
    report = FileReport(path=path.as_posix(), use=use, required=required, num_bytes=None)
    try:
        report = replace(report, num_bytes=(folder / path).stat().st_size)
        return replace(report, num_tensors=check(folder / path))
    except FileNotFoundError:
        return report
    except OSError as error:
        return replace(report, problem=f"{folder / path} cannot be read: {error.strerror}")
    except WeightsError as error:
        return replace(report, problem=str(error))


def _hashed(folder: Path, report: FileReport) -> FileReport:
    digest = HashBook(folder).sha256(Path(report.path))
    wanted = _downloaded_hash(folder, report.path)
    problem = f"{folder / report.path} is damaged: it is not what was downloaded (sha256). Delete and fetch it again."
    return replace(report, sha256=digest, problem=problem if wanted and wanted != digest else "")


def _downloaded_hash(folder: Path, path: str) -> str | None:
    """The sha256 that huggingface_hub noted when it downloaded a large file (its second line)."""
    try:
        lines = (folder / ".cache/huggingface/download" / f"{path}.metadata").read_text().splitlines()
    except OSError:
        return None
    return lines[1] if len(lines) > 1 and len(lines[1]) == 64 else None


def _summed(folder: Path, report: FileReport) -> FileReport:
    record = damaged_record(folder / report.path)
    problem = f"{folder / report.path} is damaged in its record {record}. Fetch it again."
    return replace(report, problem=problem if record else "")
