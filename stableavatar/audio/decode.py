"""Sound of any file: how long it is, as the speech the model hears, and as the sound track of the video."""

import wave
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import av
import ffmpeg
import numpy as np

from stableavatar.audio.edges import FADE_S, shaped
from stableavatar.audio.loudness import SILENCE_LUFS, Loudness, gain_to, measure_loudness, metered
from stableavatar.audio.source import REMEDY, Source, blaming, open_source
from stableavatar.audio.span import Span
from stableavatar.errors import BadInput, StorageError
from stableavatar.ffmpeg import SOUND_INPUT, FfmpegError, feed, local, read
from stableavatar.limits import Limits
from stableavatar.units import SPEECH_RATE

SPEECH_LUFS = -23.0  # what the model hears (EBU R 128); the sound track keeps its own loudness
AAC_BITS_PER_SAMPLE = 2  # of each channel: 96 kb/s at 48 kHz, transparent for speech and music
AAC_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 64_000, 88_200, 96_000)

_LOST_S = 0.25  # seconds that may be missing at the end: encoder padding, never a word
_LEAST_GAP_S = 0.01  # seconds that are missing in a stream; less is how times were rounded
_PAST_LIMIT_S = 0.01  # seconds that are decoded to see that a sound is too long
_RAISE = "raise --max-sound-s"
_MAKE_ROOM = "Make room on the scratch disk and in memory, and run again."
_SAME_EVERYWHERE = ("-cpuflags", "0")  # vector units round differently: without them every node agrees


@dataclass(frozen=True, kw_only=True)
class SoundInfo:
    """What a sound is. `duration_s`: seconds that exist of the asked span, by decoding, and its silence.

    `number`: of the stream among the sounds of its file, from 0.
    """

    duration_s: float
    sample_rate: int
    channels: int
    codec: str
    number: int


def measure_sound(path: str, span: Span = Span(), *, limits: Limits = Limits()) -> SoundInfo:
    """Decodes the span of the medium and tells its true length; what lies past the end is cut.

    Decoding stops where the limit is passed, whatever length the header promises.
    Raises BadInput: no such file, not media, no such audio stream, nothing in the span, broken off before its end, too
    long.
    """
    source = open_source(path, span.stream)
    rate = source.sample_rate
    if max(span.start_s, source.delay / rate) >= limits.max_sound_s:
        raise BadInput(f"{path}: what is asked for begins after {_limit(limits)}. Cut the sound, or {_RAISE}.")
    stop_s = limits.max_sound_s + _PAST_LIMIT_S  # there it is known to be too long
    end_s = stop_s if span.end_s is None else min(span.end_s, stop_s)
    sound = sound_of(source, span.start_s, end_s).filter("aformat", sample_fmts="flt", channel_layouts="mono")
    num_samples = sum(map(len, _decoded(source, sound)))
    num_silent = round(span.pad_before_s * rate) + round(span.pad_after_s * rate)
    duration_s = (num_samples + num_silent) / rate
    if span.start_s + duration_s > limits.max_sound_s:
        raise BadInput(f"{path} is longer than {_limit(limits)}. Name a span with end_s, cut the sound, or {_RAISE}.")
    _check_span(source, span, num_samples / rate)
    return SoundInfo(
        duration_s=duration_s,
        sample_rate=rate,
        channels=source.channels,
        codec=source.codec,
        number=source.number,
    )


def decode_speech(path: str, span: Span = Span()) -> np.ndarray:
    """The span of the medium as the model hears it: float32 [n], 16 kHz mono in [-1, 1], with its silence.

    All speech is brought to -23 LUFS, and peaks that would pass 1 are cut; what is quieter than -70 LUFS stays. A
    sound that starts later than its video is preceded by silence. Raises BadInput as `measure_sound`, and for NaN.
    """
    source = open_source(path, span.stream)
    with metered(_speech(source, span)) as (sound, shown):
        samples = bytearray()
        for chunk in shaped(_checked(source, span, SPEECH_RATE, _decoded(source, sound)), span, SPEECH_RATE):
            samples += chunk.tobytes()
        loudness = shown()
    speech = np.frombuffer(samples, dtype="<f4")
    spoken = speech[round(span.pad_before_s * SPEECH_RATE) : len(speech) - round(span.pad_after_s * SPEECH_RATE)]
    speech *= _speech_gain(loudness, spoken)
    return np.clip(speech, -1.0, 1.0, out=speech)


def speech_gain(speech: np.ndarray) -> float:
    """The factor that brings a whole speech, float32 [n] at 16 kHz, to -23 LUFS, as `decode_speech` does.

    Raises FfmpegError.
    """
    with metered(ffmpeg.input("pipe:", format="f32le", ar=SPEECH_RATE, ch_layout="mono")) as (sound, shown):
        feed(sound.output("-", format="null"), [speech])
        return _speech_gain(shown(), speech)


def extract_speech(path: str, out_path: str, span: Span = Span()) -> None:
    """Writes the span of the medium as 16 kHz mono WAV, 16 bit, at its own loudness. Memory does not grow.

    Raises BadInput as `decode_speech`.
    """
    source = open_source(path, span.stream)
    chunks = _checked(source, span, SPEECH_RATE, _decoded(source, _speech(source, span)))
    with wave.open(out_path, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SPEECH_RATE)
        for chunk in shaped(chunks, span, SPEECH_RATE):
            file.writeframes(np.clip(np.rint(chunk * 32_768), -32_768, 32_767).astype("<i2").tobytes())


def encode_sound(
    path: str, out_path: str, span: Span = Span(), *, duration_s: float, loudness: float | None = None
) -> None:
    """Writes the original sound of the span as AAC in m4a: own rate and channels, `duration_s` exactly.

    Cut or padded with silence. With `loudness` it is made louder or quieter as a whole, to so many LUFS, or as near as
    its true peak stays below -1 dBTP; without, its level stays. The same sound gives the same bytes. Raises BadInput as
    `measure_sound`, StorageError if the file cannot be written.
    """
    source = open_source(path, span.stream)
    rate = min((rate for rate in AAC_RATES if rate >= source.sample_rate), default=AAC_RATES[-1])
    end_s = span.start_s + duration_s if span.end_s is None else min(span.end_s, span.start_s + duration_s)
    gain = 1.0
    if loudness is not None:
        with blaming(path):
            gain = gain_to(loudness, measure_loudness(sound_of(source, span.start_s, end_s)), path)
    sound = sound_of(source, span.start_s, end_s + FADE_S)
    sound = sound.filter("aresample", rate, resampler="soxr", precision=28, osf="flt")
    chunks = _decoded(source, sound, *_SAME_EVERYWHERE, channels=source.channels)
    chunks = _checked(source, replace(span, end_s=end_s), rate, chunks)
    num_samples = round(duration_s * rate)
    shape = shaped(chunks, span, rate, channels=source.channels, num_samples=num_samples)
    write_aac((chunk * np.float32(gain) for chunk in shape), out_path, rate=rate, layout=source.layout)


def write_aac(chunks: Iterable[np.ndarray], out_path: str, *, rate: int, layout: str) -> None:
    """Writes samples, float32 [n, channels] piece by piece, as AAC in m4a: the same samples give the same bytes.

    `layout` is ffmpeg's name of the channels. Raises StorageError if the file cannot be written.
    """
    bitrate = AAC_BITS_PER_SAMPLE * rate * av.AudioLayout(layout).nb_channels
    output = ffmpeg.input("pipe:", format="f32le", ar=rate, ch_layout=layout).output(
        local(out_path), format="ipod", acodec="aac", audio_bitrate=bitrate,
        # Noise in place of sound would depend on all that was decoded before: nothing could be cut out and replaced.
        aac_pns=0, map_metadata=-1, fflags="+bitexact", **{"flags:a": "+bitexact"},
    )  # fmt: skip
    try:
        feed(output.global_args(*_SAME_EVERYWHERE), chunks)
    except FfmpegError as error:
        raise StorageError(f"{out_path}: the sound could not be encoded: {error}. {_MAKE_ROOM}") from error


def read_sound(
    path: str, *, sample_rate: int, layout: str = "stereo", start: int = 0, stream: str = ""
) -> Generator[np.ndarray]:
    """The sound from sample `start` of the medium's time line to its end, piece by piece: float32 [n, channels].

    `layout` is ffmpeg's name of the channels. Raises BadInput as `measure_sound`.
    """
    source = open_source(path, stream)
    # A voice alone is as loud on both sides as it was in the middle; ffmpeg would lower it by 3 dB.
    is_copied = source.channels == 1 and layout == "stereo"
    sound = sound_of(source).filter("aresample", ochl="mono" if is_copied else layout, osf="fltp", rematrix_maxval=1)
    sound = sound.filter("aresample", sample_rate, resampler="soxr", precision=28).filter("atrim", start_sample=start)
    for samples in _decoded(source, sound, channels=1 if is_copied else av.AudioLayout(layout).nb_channels):
        yield np.tile(samples, (1, 2)) if is_copied else samples


def decode_sound(path: str, *, sample_rate: int, layout: str) -> np.ndarray:
    """The whole of what `read_sound` gives, float32 [n, channels]."""
    return np.concatenate(list(read_sound(path, sample_rate=sample_rate, layout=layout)))


def loudness_gain(path: str, target: float, layout: str) -> float:
    """The factor that brings what `decode_sound` gives to `target` LUFS, or as near as `encode_sound` comes to it.

    Raises BadInput as `measure_sound`.
    """
    source = open_source(path)
    sound = sound_of(source)
    if source.channels == 1 and layout == "stereo":  # twice the voice is 3 dB louder than once
        sound = sound.filter("channelmap", map="0-0|0-1", channel_layout="stereo")
    else:
        sound = sound.filter("aresample", ochl=layout, osf="fltp", rematrix_maxval=1)
    with blaming(path):
        return gain_to(target, measure_loudness(sound), path)


def sound_of(source: Source, start_s: float = 0.0, end_s: float | None = None) -> Any:
    """The samples of [start_s, end_s) at the source's own rate and channels, as an ffmpeg-python stream.

    The stream starts at its own zero, gaps in it become silence, then it moves to its place on the medium's time line:
    ffmpeg's own zero is where the first packet starts, and that may hold samples nobody hears.
    """
    sound = ffmpeg.input(local(source.path), **SOUND_INPUT)[str(source.index)].filter("asetpts", "PTS-STARTPTS")
    sound = sound.filter("aresample", source.sample_rate, first_pts=0, min_hard_comp=_LEAST_GAP_S, **{"async": 1})
    if source.delay:
        sound = sound.filter("adelay", f"{source.delay}S", all=1)
    bounds = {"start_sample": round(start_s * source.sample_rate)}
    if end_s is not None:
        bounds["end_sample"] = round(end_s * source.sample_rate)
    return sound.filter("atrim", **bounds).filter("asetpts", "PTS-STARTPTS")


def _speech(source: Source, span: Span) -> Any:
    """16 kHz mono from the span's start on, to a little past its end."""
    sound = sound_of(source, span.start_s, None if span.end_s is None else span.end_s + FADE_S)
    # Mixing before resampling: one channel to filter. rematrix_maxval keeps a mix of full channels within [-1, 1].
    sound = sound.filter("aresample", ochl="mono", osf="fltp", rematrix_maxval=1)
    return sound.filter("aresample", SPEECH_RATE, resampler="soxr", precision=28)


def _speech_gain(loudness: Loudness, speech: np.ndarray) -> float:
    """The factor that brings speech, without its padding, to -23 LUFS.

    A peak does not limit it: one click would keep a whole sound so faint that it passes for a pause.
    """
    level = loudness.integrated
    if level <= SILENCE_LUFS:  # also what is shorter than the 0.4 s that the meter needs: its power tells enough then
        level = 20 * float(np.log10(max(float(speech.std()), 1e-9))) if len(speech) else SILENCE_LUFS
    return 1.0 if level <= SILENCE_LUFS else 10 ** ((SPEECH_LUFS - level) / 20)


def _decoded(source: Source, sound: Any, *options: str, channels: int = 1) -> Iterator[np.ndarray]:
    """Samples of an ffmpeg-python stream, float32 [n, channels] piece by piece. Raises BadInput, also for NaN."""
    rest = b""
    with blaming(source.path):
        for chunk in read(sound.output("pipe:", format="f32le", acodec="pcm_f32le").global_args(*options)):
            data = rest + chunk
            whole = len(data) // (4 * channels) * 4 * channels
            rest = data[whole:]
            samples = np.frombuffer(data[:whole], dtype="<f4").reshape(-1, channels)
            if not np.isfinite(samples).all():
                raise BadInput(
                    f"{source.path} holds samples that are not numbers (NaN or infinite). Export the sound again."
                )
            yield samples


def _checked(source: Source, span: Span, rate: int, chunks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The chunks, and at their end the errors of `_check_span`."""
    num_samples = 0
    for chunk in chunks:
        num_samples += len(chunk)
        yield chunk
    _check_span(source, span, num_samples / rate)


def _limit(limits: Limits) -> str:
    return f"the limit of {limits.max_sound_s:g} s"


def _check_span(source: Source, span: Span, found_s: float) -> None:
    """Raises BadInput if the source broke off within the span, or nothing of it is there."""
    if source.declared_s is not None:
        wanted_s = source.declared_s if span.end_s is None else min(span.end_s, source.declared_s)
        if span.start_s < wanted_s and wanted_s - span.start_s - found_s > _LOST_S:
            raise BadInput(
                f"{source.path} breaks off at {span.start_s + found_s:.2f} s; by its own header it is "
                f"{source.declared_s:.2f} s long. {REMEDY}"
            )
    if found_s:
        return
    if span.start_s:
        raise BadInput(
            f"{source.path} has no sound from start_s = {span.start_s:g} s on: it ends earlier. Lower start_s."
        )
    raise BadInput(f"{source.path} holds no sound: it is 0 s long. {REMEDY}")
