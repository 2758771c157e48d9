"""Fetch a published model with huggingface_hub: exactly the files that it needs.

A connection that breaks is taken up again at the byte where it broke. A program that is stopped keeps the files that
are complete and begins the others anew (huggingface_hub no longer trusts half a file of another process).
"""

import os
import shutil
import time
from pathlib import Path

import httpx2  # what huggingface_hub speaks with, and whose errors it lets through
from huggingface_hub import HfApi, ModelInfo, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from stableavatar.checkpoints import layout
from stableavatar.errors import WeightsError

REPOSITORY = "FrancisRing/StableAvatar"
LEFTOVER_S = 3600  # a half file that nobody has written to for so long is abandoned
MODELS = {size.lower(): size for size in layout.SIZES}


def download(
    model: str,
    folder: str | Path,
    variants: tuple[str, ...] = layout.VARIANTS,
    *,
    base: bool = False,
    repository: str = REPOSITORY,
    tries: int = 5,
) -> Path:
    """Fetch a model into a folder. Files that are there and complete are kept.

    The environment's HF_ENDPOINT names another server (a mirror), HF_TOKEN an account.

    Args:
        model: "1.3b" or "14b".
        folder: where to, laid out as published.
        variants: which of the transformer's weights.
        base: also the base model's own transformer, which a training may begin with.
        repository: on the Hugging Face hub.
        tries: how often a broken connection is taken up again.

    Raises:
        WeightsError: there is no such model, the server cannot be reached or lacks files, or the disk is too small.
    """
    if model.lower() not in MODELS:
        raise WeightsError(f"there is no model {model!r} to download; there is: {', '.join(MODELS)}.")
    folder = Path(folder).expanduser().absolute()
    endpoint = os.environ.get("HF_ENDPOINT") or None
    for attempt in range(1, tries + 1):
        try:
            info = HfApi(endpoint=endpoint).model_info(repository, files_metadata=True)
            files = wanted_files(info, MODELS[model.lower()], variants, base=base)
            _check_disk(folder, info, files)
            snapshot_download(
                repository, revision=info.sha, allow_patterns=files, local_dir=folder, endpoint=endpoint, max_workers=4
            )
            _check_arrived(folder, info, files)
            return folder
        except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, httpx2.HTTPError, OSError) as error:
            if attempt == tries or not _is_transient(error):
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise WeightsError(
                    f"{repository} could not be fetched from {endpoint or 'the Hugging Face hub'}: {reason}. What has "
                    f"come is kept in {folder}: the same command goes on from there. HF_ENDPOINT can name a mirror."
                ) from error
    raise AssertionError("unreachable")


def _is_transient(error: Exception) -> bool:
    """Broken connections are; a server that answers "no", or a full disk, is not."""
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        return error.response.status_code >= 500
    return isinstance(error, httpx2.TransportError | LocalEntryNotFoundError | ConnectionError | HfHubHTTPError)


def wanted_files(info: ModelInfo, size: str, variants: tuple[str, ...], *, base: bool) -> list[str]:
    """The files of a repository that a model needs and nothing else; `base`: the base model's own transformer too.

    Raises:
        WeightsError: the repository lacks one of them.
    """
    there = {file.rfilename for file in info.siblings or []}
    base_folder, audio = layout.base_folder(size), layout.AUDIO
    needed = [f"{layout.avatar_folder(size)}/{layout.transformer_file(variant)}" for variant in variants]
    parts = (layout.VAE, layout.TEXT, layout.IMAGE, *([layout.TRUNK] if base else []))
    needed += [f"{base_folder}/{name}" for name in parts] + [f"{audio}/config.json"]
    weights = next((name for name in layout.AUDIO_WEIGHTS if f"{audio}/{name}" in there), layout.AUDIO_WEIGHTS[0])
    needed += [f"{audio}/{weights}", f"{base_folder}/{layout.TOKENIZER}/tokenizer.json"]
    if missing := sorted(set(needed) - there):
        raise WeightsError(f"{info.id} has no {size} model: it lacks {', '.join(missing)}.")
    useful = [f"{base_folder}/{layout.TOKENIZER}/{name}" for name in layout.TOKENIZER_FILES]
    useful += [f"{base_folder}/config.json", f"{audio}/preprocessor_config.json", layout.VOCALS]
    return sorted({*needed, *(name for name in useful if name in there)})


def _sizes(info: ModelInfo) -> dict[str, int]:
    return {file.rfilename: file.size or 0 for file in info.siblings or []}


def _check_disk(folder: Path, info: ModelInfo, files: list[str]) -> None:
    sizes = _sizes(info)
    to_come = sum(sizes[name] for name in files if not (folder / name).exists())
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if to_come > free:
        raise WeightsError(
            f"{folder} has {free / 1e9:.1f} GB free but {to_come / 1e9:.1f} GB are to come. Choose another folder."
        )


def _check_arrived(folder: Path, info: ModelInfo, files: list[str]) -> None:
    """What huggingface_hub found there already, it has not measured."""
    sizes = _sizes(info)
    wrong = [name for name in files if (folder / name).stat().st_size != sizes[name]]
    if wrong:
        raise WeightsError(f"{folder}: {', '.join(wrong)} have another size than published. Delete and repeat.")
    _remove_leftovers(folder)


def _remove_leftovers(folder: Path) -> None:
    """Half files of programs that were killed; nobody uses them again. Young ones may be another's at work."""
    for path in (folder / ".cache/huggingface/download").rglob("*.incomplete"):
        if time.time() - path.stat().st_mtime > LEFTOVER_S:
            path.unlink(missing_ok=True)
