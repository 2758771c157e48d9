"""From latents to the finished video, in segments: each is a piece that is encoded on its own and can be kept.

Shapes: B batch, C channels, F latent frames, H W height and width, V video frames.
"""

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from stableavatar.checkpoint import Checkpoint
from stableavatar.errors import BrokenVideo
from stableavatar.model.vae import decode_frames, warm_up_latents
from stableavatar.tracks import Track
from stableavatar.units import frames_of, latents_for
from stableavatar.video.writer import PieceWriter, encoder, is_piece, join

SEGMENT_LATENTS = 375  # 60 s. Another number gives other bytes: every segment begins with a whole picture

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Latent frames [start, stop) of a video, and the number of video frames that are made of them."""

    index: int
    start: int
    stop: int
    num_frames: int


def plan_segments(num_latents: int, num_frames: int) -> tuple[Segment, ...]:
    """Cut a video into segments. The last one makes all video frames that are left, be they more than its own."""
    segments = []
    for index, start in enumerate(range(0, num_latents, SEGMENT_LATENTS)):
        stop = min(start + SEGMENT_LATENTS, num_latents)
        end = num_frames if stop == num_latents else frames_of(stop)
        segments.append(
            Segment(index=index, start=start, stop=stop, num_frames=end - (frames_of(start) if start else 0))
        )
    return tuple(segments)


def write_video(
    vae: AutoencoderKLWan,
    latents_BCFHW: Tensor,
    path: str,
    *,
    width: int,
    height: int,
    num_frames: int,
    sound_path: str,
    checkpoint: Checkpoint,
    on_latent: Callable[[], None],
    language: str = "",
    tracks: Sequence[Track] = (),
) -> None:
    """Decode latents, and write the finished video. Segments of an earlier attempt on the same latents are taken over.

    Args:
        vae: the decoder.
        latents_BCFHW: of the whole video, on the device.
        path: the mp4 file to write; while that goes on, its folder holds the segments too.
        width: pixels.
        height: pixels.
        num_frames: length of the video; where the latents give fewer frames, the last one is held.
        sound_path: m4a of exactly the video's length.
        checkpoint: has segments, and is given those that are followed by another.
        on_latent: called after each latent frame; an error raised there leaves no file.
        language: of the sound, ISO 639-2; empty if unknown.
        tracks: further sounds, and subtitles.

    Raises:
        BrokenVideo: a value is not finite, or a file could not be written. No file is left.
    """
    latents_BCFHW = latents_BCFHW[
        :, :, : latents_for(num_frames)
    ]  # the VAE is causal: what comes later changes nothing
    segments = plan_segments(latents_BCFHW.shape[2], num_frames)
    pieces, frames = [], None
    with (
        tempfile.TemporaryDirectory(prefix=".segments-", dir=os.path.dirname(path) or ".") as folder,
        ExitStack() as stack,
    ):
        for segment in segments:
            origin = origin_of(vae, latents_BCFHW, segment)
            piece = _kept(checkpoint, segment, origin)
            if piece is not None:
                frames = None  # of the next segment; these would be of this one
            else:
                piece = os.path.join(folder, f"segment-{segment.index:05d}.mp4")
                frames = frames or stack.enter_context(closing(decode_frames(vae, latents_BCFHW, segment.start)))
                size = {"width": width, "height": height, "num_frames": segment.num_frames}
                with PieceWriter(piece, origin=origin, **size) as writer:
                    _decode(frames, segment, writer, on_latent)
                if segment is not segments[-1]:
                    checkpoint.keep_segment(segment.index, piece)
            pieces.append((piece, segment.num_frames))
        join(pieces, sound_path, path, language=language, tracks=tracks)


def origin_of(vae: AutoencoderKLWan, latents_BCFHW: Tensor, segment: Segment) -> str:
    """Hash of everything that a segment's bytes depend on, within one model: the latents that reach into it above all.

    Latents that were made once more, on another device, may differ in their last digits: segments of both do not mix.
    """
    content = hashlib.sha256(f"{encoder()} {segment} {latents_BCFHW.shape}".encode())
    for index in range(max(0, segment.start - warm_up_latents(vae)), segment.stop):
        content.update(latents_BCFHW[:, :, index].cpu().contiguous().numpy().data)
    return content.hexdigest()


def to_pixels(frames_BCVHW: Tensor) -> np.ndarray:
    """Frames in [-1, 1] as bytes: [1, 3, V, H, W] -> uint8 [V, H, W, 3].

    Raises:
        BrokenVideo: a value is not finite.
    """
    if not torch.isfinite(frames_BCVHW).all():
        raise BrokenVideo(
            "the model gave values that are not finite (NaN or infinite). Check its weights or use a wider number type."
        )
    pixels = ((frames_BCVHW[0].float() + 1) * 127.5).round().clamp(0, 255)
    return pixels.permute(1, 2, 3, 0).to(torch.uint8).cpu().numpy()


def as_video(frames_VHWC: np.ndarray) -> Tensor:
    """The way back: uint8 RGB frames as a video in [-1, 1], [1, 3, V, H, W]."""
    frames = torch.from_numpy(np.ascontiguousarray(frames_VHWC))
    return (frames.permute(3, 0, 1, 2)[None].float() / 127.5 - 1).contiguous()


def _kept(checkpoint: Checkpoint, segment: Segment, origin: str) -> str | None:
    """The segment as an earlier attempt has left it, if it is there, whole, and made of the same latents."""
    path = checkpoint.segment(segment.index)
    if path is None or is_piece(path, num_frames=segment.num_frames, origin=origin):
        return path
    logger.warning("segment %d of an earlier attempt is damaged or of other latents: it is made again", segment.index)
    return None


def _decode(frames: Iterator[Tensor], segment: Segment, writer: PieceWriter, on_latent: Callable[[], None]) -> None:
    for _ in range(segment.start, segment.stop):
        pixels_VHWC = to_pixels(next(frames))
        writer.write(pixels_VHWC)
        on_latent()
    # As the published code plans a video, up to three frames are not made: the last one is held.
    for _ in range(writer.num_missing):
        writer.write(pixels_VHWC[-1:])
