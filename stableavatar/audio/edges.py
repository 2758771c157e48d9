"""The edges of a span: where it ends exactly, silence before and after, and no click where a sound is cut."""

from collections.abc import Iterable, Iterator

import numpy as np

from stableavatar.audio.span import Span

FADE_S = 0.005  # seconds of a cut edge over which the sound comes or goes
ROUNDING = 2  # samples by which a resampler may go on past the last sound


def rise_of(rate: int) -> np.ndarray:
    """Weights of the samples of an edge where sound comes: float32, between 0 and 1."""
    num_faded = round(FADE_S * rate)
    return np.arange(1, num_faded + 1, dtype=np.float32) / (num_faded + 1)


def part_samples(span: Span, rate: int) -> int | None:
    """Samples of a span without its silence; None where it has no end."""
    return None if span.end_s is None else round(span.end_s * rate) - round(span.start_s * rate)


def shaped(
    chunks: Iterable[np.ndarray], span: Span, rate: int, *, channels: int = 1, num_samples: int | None = None
) -> Iterator[np.ndarray]:
    """The sound of a span with its silence, faded where it is cut; elsewhere it is untouched.

    A span is cut where the medium goes on before or after it, and where it borders on silence that was asked for.

    Args:
        chunks: float32 [n, channels], from the span's start on and past its end, if the medium goes on there.
        span: whose sound it is.
        rate: samples per second.
        channels: of the silence.
        num_samples: the length to give, cut or padded with silence; None: that of the sound and its silence.
    """
    before, after = round(span.pad_before_s * rate), round(span.pad_after_s * rate)
    most = part_samples(span, rate)
    if num_samples is not None:
        before = min(before, num_samples)
        most = min(num_samples - before, num_samples if most is None else most)
    yield np.zeros((before, channels), np.float32)
    num_given = before
    for chunk in _faded(chunks, rate, most, bool(span.start_s or before), bool(after)):
        yield chunk
        num_given += len(chunk)
    yield np.zeros((after if num_samples is None else num_samples - num_given, channels), np.float32)


def _faded(
    chunks: Iterable[np.ndarray], rate: int, most: int | None, is_cut_before: bool, is_cut_after: bool
) -> Iterator[np.ndarray]:
    """At most so many samples. The last ones are held back until it is known whether the sound goes on."""
    rise = rise_of(rate)[:, None]
    num_faded = len(rise)
    held, start = np.zeros((0, 1), np.float32), 0  # what was not given yet, and where it starts
    for chunk in chunks:
        held = np.concatenate([held, chunk]) if len(held) else chunk
        if most is not None and start + len(held) > most + ROUNDING:
            is_cut_after, held = True, held[: most + ROUNDING - start]
        num_sure = len(held) - num_faded - ROUNDING
        if num_sure > num_faded:  # so the first piece holds the whole rise
            yield _risen(held[:num_sure], start, rise, is_cut_before)
            held, start = held[num_sure:], start + num_sure
    if len(held):
        last = _risen(held if most is None else held[: most - start], start, rise, is_cut_before)
        yield _risen(last[::-1], 0, rise, is_cut_after)[::-1]


def _risen(samples: np.ndarray, start: int, rise: np.ndarray, is_cut: bool) -> np.ndarray:
    if start or not is_cut or not len(samples):
        return samples
    num_faded = min(len(rise), len(samples))
    return np.concatenate([samples[:num_faded] * rise[:num_faded], samples[num_faded:]])
