"""The picture of a corrected video: what is known of the old one, and the new one put in its place.

Shapes: B batch, C channels, F latent frames, V video frames, H W height and width.
"""

import os
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from stableavatar.correction.plan import CorrectionPlan, Range
from stableavatar.model.vae import decode_frames, encode_frames, encoder_warm_up_latents, warm_up_latents
from stableavatar.sampling.sampler import Known
from stableavatar.segments import as_video, to_pixels
from stableavatar.tracks import Track
from stableavatar.units import FRAMES_PER_LATENT, latents_for
from stableavatar.video.film import Film, copy_frames, open_film, read_frames
from stableavatar.video.writer import PieceWriter, join


@dataclass(frozen=True, kw_only=True, eq=False)
class Recalled:
    """What is known of a finished video where it is to be corrected."""

    film: Film
    plan: CorrectionPlan
    known: Known  # of all regions, laid end to end
    contexts: tuple[Tensor, ...]  # of each region the latents before its first new one, as far as they reach into it


def recall(vae: AutoencoderKLWan, video_path: str, plan: CorrectionPlan, noise_BCFHW: Tensor) -> Recalled:
    """Look at a finished video again: the latents of its frames, by the VAE's encoder.

    `noise_BCFHW`: what the whole video began with. Raises BadInput if it is none of this program, or cannot be decoded.
    """
    film = open_film(video_path)
    known, contexts, noise = [], [], []
    for region in plan.regions:
        begin = max(0, region.first - warm_up_latents(vae))
        low = min(begin, region.start)
        latents = _encoded(vae, film, low, region.stop)
        known.append(latents[:, :, region.start - low :])
        contexts.append(latents[:, :, begin - low : region.first - low])
        noise.append(noise_BCFHW[:, :, region.start : region.stop].to(latents))
    return Recalled(
        film=film,
        plan=plan,
        known=Known(
            latents_BCFHW=torch.cat(known, dim=2),
            noise_BCFHW=torch.cat(noise, dim=2),
            weights_F=plan.latent_weights(),
        ),
        contexts=tuple(contexts),
    )


def write_corrected(
    vae: AutoencoderKLWan,
    recalled: Recalled,
    latents_BCFHW: Tensor,
    path: str,
    *,
    sound_path: str,
    on_latent: Callable[[], None],
    language: str = "",
    tracks: Sequence[Track] = (),
) -> None:
    """Write the corrected video. Up to where something changes, and from the next key frame on, the old packets
    are copied.

    Args:
        vae: the decoder.
        recalled: the old video.
        latents_BCFHW: of all regions, laid end to end, as they were sampled.
        path: the mp4 file to write; while that goes on, its folder holds pieces of it too.
        sound_path: m4a of exactly the video's length.
        on_latent: called after each latent frame; an error raised there leaves no file.
        language: of the sound, ISO 639-2; empty if unknown.
        tracks: further sounds, and subtitles.

    Raises:
        BadInput: the old video cannot be decoded.
        BrokenVideo: a value is not finite.
        StorageError: a file could not be written.
    """
    film = recalled.film
    changed = [frames for region in recalled.plan.regions for frames in recalled.plan.changed(region)]
    pieces: list[tuple[str, int]] = []
    with (
        tempfile.TemporaryDirectory(prefix=".pieces-", dir=os.path.dirname(path) or ".") as folder,
        ExitStack() as stack,
    ):
        new_frames = stack.enter_context(closing(_changes(vae, recalled, latents_BCFHW, on_latent)))
        for run, is_touched in _runs(film, changed):
            piece, num_frames = os.path.join(folder, f"{len(pieces):05d}.mp4"), run[1] - run[0]
            if is_touched:
                with PieceWriter(piece, width=film.width, height=film.height, num_frames=num_frames) as writer:
                    _write_run(film, run, changed, new_frames, writer)
            else:
                copy_frames(film, *run, piece)
            pieces.append((piece, num_frames))
        join(pieces, sound_path, path, language=language, tracks=tracks)


def _encoded(vae: AutoencoderKLWan, film: Film, start: int, stop: int) -> Tensor:
    """The latents [start, stop) of a film; those behind its end are 0."""
    first = max(0, start - encoder_warm_up_latents(vae))
    end = min(stop, latents_for(film.num_frames))
    chunks = _chunks(film, FRAMES_PER_LATENT * first, FRAMES_PER_LATENT * (end - 1) + 1)
    latents = [latent for index, latent in enumerate(encode_frames(vae, chunks), start=first) if index >= start]
    found = torch.cat(latents, dim=2)
    missing = found.new_zeros(*found.shape[:2], stop - end, *found.shape[3:])
    return torch.cat([found, missing], dim=2)


def _chunks(film: Film, first: int, stop: int) -> Iterator[Tensor]:
    """Frames as the encoder takes them: one, then four at a time, in [-1, 1], [1, 3, V, H, W]. The last one is held."""
    waiting: list[np.ndarray] = []
    wanted = 1
    for frame_HWC in read_frames(film, first, min(stop, film.num_frames)):
        waiting.append(frame_HWC)
        if len(waiting) == wanted:
            yield as_video(np.stack(waiting))
            waiting, wanted = [], FRAMES_PER_LATENT
    if waiting:
        yield as_video(np.stack(waiting + waiting[-1:] * (wanted - len(waiting))))


def _runs(film: Film, changed: list[Range]) -> Iterator[tuple[Range, bool]]:
    """The film in runs that are copied, and runs that are encoded again because something changes there."""
    touched: list[Range] = []
    for span in changed:
        first, stop = film.cut_around(*span)
        if touched and first <= touched[-1][1]:
            first, _ = touched.pop()
        touched.append((first, stop))
    end = 0
    for first, stop in touched:
        if end < first:
            yield (end, first), False
        yield (first, stop), True
        end = stop
    if end < film.num_frames:
        yield (end, film.num_frames), False


def _changes(
    vae: AutoencoderKLWan, recalled: Recalled, latents_BCFHW: Tensor, on_latent: Callable[[], None]
) -> Generator[tuple[float, np.ndarray]]:
    """Every frame that changes: its weight against the old one, and its pixels, uint8 [H, W, 3]."""
    plan, offset = recalled.plan, 0
    for region, context in zip(plan.regions, recalled.contexts, strict=True):
        weights = plan.frame_weights(region).tolist()
        last = min(region.last, latents_for(plan.num_frames))
        new = latents_BCFHW[:, :, offset + region.first - region.start : offset + last - region.start]
        number = 0
        with closing(decode_frames(vae, torch.cat([context, new], dim=2), context.shape[2])) as frames:
            for frames_BCVHW in frames:
                for pixels_HWC in to_pixels(frames_BCVHW)[: len(weights) - number]:
                    if weights[number]:
                        yield weights[number], pixels_HWC
                    number += 1
                on_latent()
        offset += region.stop - region.start


def _write_run(
    film: Film, run: Range, changed: list[Range], new_frames: Iterator[tuple[float, np.ndarray]], writer: PieceWriter
) -> None:
    """A run that is encoded again: the old frames, and where something changes the new ones faded over them."""
    with closing(read_frames(film, *run)) as old_frames:
        for number, frame_HWC in enumerate(old_frames, start=run[0]):
            if any(first <= number < stop for first, stop in changed):
                weight, new_HWC = next(new_frames)
                # What the VAE loses of the old picture comes and goes with the seam, too.
                mixed = frame_HWC * np.float32(1 - weight) + new_HWC * np.float32(weight)
                frame_HWC = mixed.round().astype(np.uint8)
            writer.write(frame_HWC[None])
