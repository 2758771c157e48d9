"""Which part of a finished video is made again for a correction, before any arithmetic.

A corrected sentence changes the latent frames that cover it, and on both sides some more that fade from the old
picture to the new one: the seams. The windows in which they are sampled reach further, into latents that are known.

All counts of a `Region` are latent frames of the whole video.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stableavatar.sampling.plan import Plan
from stableavatar.sampling.windows import RAMPS, Window, padded_latents, plan_windows
from stableavatar.units import FPS, FRAMES_PER_LATENT, SAMPLES_PER_FRAME, frames_of, latents_for

Range = tuple[int, int]  # of latents or video frames: the first, and the first behind the end


@dataclass(frozen=True, kw_only=True)
class Correction:
    """A finished video, and the seconds [start, end) of it that are made again."""

    video_path: str
    spans_s: tuple[tuple[float, float], ...]  # in their order, without overlaps


@dataclass(frozen=True, kw_only=True)
class Region:
    """Latents [start, stop) are sampled, in whole windows; of these [first, last) change."""

    start: int
    stop: int
    first: int
    last: int
    cores: tuple[Range, ...]  # of these latents nothing old is left


@dataclass(frozen=True, kw_only=True)
class CorrectionPlan:
    """All regions of a video, laid end to end: they are sampled as one state."""

    regions: tuple[Region, ...]
    plan: Plan  # its windows count in the latents of all regions, its speech in samples of the whole video
    num_frames: int  # of the video
    overlap: int  # latent frames of a seam
    blend: str  # how a seam rises, one of `sampling.windows.RAMPS`

    @property
    def num_latents(self) -> int:
        """Latent frames of the whole video, as it was sampled."""
        return padded_latents(self.num_frames, self.plan.window_latents)

    def latent_weights(self) -> Tensor:
        """Weight of the new in the latents of all regions, one after the other: 1 in a core, 0 beyond its seams.

        Latents behind the end of the video are not known: they are new.
        """
        parts = []
        for region in self.regions:
            weights = _weights(region.cores, region.start, region.stop, self._rise(self.overlap))
            weights[max(0, latents_for(self.num_frames) - region.start) :] = 1
            parts.append(weights)
        return torch.cat(parts)

    def frame_weights(self, region: Region) -> Tensor:
        """The same for the video frames of a region."""
        cores = [(first_frame(first), frames_of(last)) for first, last in region.cores]
        return _weights(cores, *self.frames(region), self._rise(self.overlap * FRAMES_PER_LATENT))

    def frames(self, region: Region) -> Range:
        """Video frames of a region from the first that changes to the last."""
        return first_frame(region.first), min(self.num_frames, frames_of(region.last))

    def changed(self, region: Region) -> list[Range]:
        """Of the frames of a region those that are new at least in part: cores with their seams, joined where they
        meet. Between far sentences of one region lie others, which stay as they are.
        """
        first, _ = self.frames(region)
        is_new = torch.nn.functional.pad((self.frame_weights(region) > 0).int(), (1, 1))
        edges = (is_new.diff().nonzero().flatten() + first).tolist()
        return list(zip(edges[::2], edges[1::2], strict=True))

    def _rise(self, length: int) -> Tensor:
        return RAMPS[self.blend](length + 2)[1:-1]  # at its ends all is old or all is new: they are no part of a seam


def first_frame(latent: int) -> int:
    """The first of the video frames that a latent frame stands for."""
    return max(0, frames_of(latent))


def plan_correction(
    spans_s: Sequence[tuple[float, float]], num_frames: int, window_latents: int, overlap: int, blend: str = "uniform"
) -> CorrectionPlan:
    """Plan which latents are sampled again.

    Args:
        spans_s: seconds of the video that are corrected, in their order.
        num_frames: length of the video.
        window_latents: latent frames of a window.
        overlap: latent frames of a seam, and what neighbouring windows share.
        blend: how a seam rises, one of `sampling.windows.RAMPS`.
    """
    num_latents = padded_latents(num_frames, window_latents)
    regions: list[Region] = []
    for span in spans_s:
        new = _region(_core(span, num_frames), num_latents, window_latents, overlap)
        while regions and regions[-1].stop >= new.start:
            new = _merged(regions.pop(), new)
        regions.append(new)
    return CorrectionPlan(
        regions=tuple(regions),
        plan=_plan(regions, num_latents, window_latents, overlap),
        num_frames=num_frames,
        overlap=overlap,
        blend=blend,
    )


def _core(span_s: tuple[float, float], num_frames: int) -> Range:
    """The latent frames that cover a span."""
    # Rounded, so that 0.28 s is frame 7 and not 7.000000000000001.
    first = min(math.floor(round(span_s[0] * FPS, 6)), num_frames - 1)
    last = min(max(math.ceil(round(span_s[1] * FPS, 6)), first + 1), num_frames) - 1
    return math.ceil(first / FRAMES_PER_LATENT), math.ceil(last / FRAMES_PER_LATENT) + 1


def _region(core: Range, num_latents: int, window_latents: int, overlap: int) -> Region:
    first, last = max(0, core[0] - overlap), min(num_latents, core[1] + overlap)
    length = max(last - first, window_latents)
    start = min(max(0, first - (length - (last - first)) // 2), num_latents - length)
    return Region(start=start, stop=start + length, first=first, last=last, cores=(core,))


def _merged(one: Region, other: Region) -> Region:
    return replace(
        one,
        start=min(one.start, other.start),
        stop=max(one.stop, other.stop),
        last=max(one.last, other.last),
        cores=one.cores + other.cores,
    )


def _plan(regions: Sequence[Region], num_latents: int, window_latents: int, overlap: int) -> Plan:
    windows: list[Window] = []
    speech: list[slice] = []
    num_before = 0
    for region in regions:
        for window in plan_windows(region.stop - region.start, window_latents, overlap):
            first = (region.start + window.start) * FRAMES_PER_LATENT * SAMPLES_PER_FRAME
            speech.append(slice(first, first + frames_of(window_latents) * SAMPLES_PER_FRAME))
            windows.append(replace(window, start=window.start + num_before))
        num_before += region.stop - region.start
    return Plan(
        windows=tuple(windows),
        speech=tuple(speech),
        num_samples=frames_of(num_latents) * SAMPLES_PER_FRAME,
        window_latents=window_latents,
    )


def _weights(cores: Sequence[Range], start: int, stop: int, rise: Tensor) -> Tensor:
    """1 in the cores, `rise` before them, the same backwards behind them, 0 elsewhere: [stop - start]."""
    weights = torch.zeros(stop - start)
    for first, last in cores:
        shape = torch.cat([rise, torch.ones(last - first), rise.flip(0)])
        begin = first - len(rise) - start
        from_, to = max(0, begin), min(len(weights), begin + len(shape))
        weights[from_:to] = torch.maximum(weights[from_:to], shape[from_ - begin : to - begin])
    return weights
