"""The ffmpeg program: the one that imageio-ffmpeg carries, driven with ffmpeg-python, its errors in its own words."""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO, Any

import ffmpeg
import imageio_ffmpeg
import numpy as np

from stableavatar.text import one_line

# Sound and films only, and only local files: a playlist (hls, dash, concat, sdp) names further files, which a row must
# not reach.
SOUND_FORMATS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dsf,dts,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,mxf,ogg,tta,w64,wav,wv"
)
SAFE_INPUT = {"protocol_whitelist": "file", "format_whitelist": SOUND_FORMATS}

# What people have sound in. The hundreds of others, and decoders of subtitles, are never started.
SOUND_CODECS = (
    "aac,aac_latm,ac3,adpcm_ima_qt,adpcm_ima_wav,adpcm_ms,adpcm_swf,adpcm_yamaha,alac,amrnb,amrwb,ape,dca,"
    "dsd_lsbf,dsd_lsbf_planar,dsd_msbf,dsd_msbf_planar,eac3,flac,g722,g726,gsm,gsm_ms,libopencore_amrnb,libopencore_amrwb,libopus,"
    "libvorbis,mlp,mp1,mp1float,mp2,mp2float,mp3,mp3float,nellymoser,opus,pcm_alaw,pcm_bluray,pcm_dvd,pcm_f32be,"
    "pcm_f32le,pcm_f64be,pcm_f64le,pcm_mulaw,pcm_s16be,pcm_s16be_planar,pcm_s16le,pcm_s16le_planar,pcm_s24be,pcm_s24le,"
    "pcm_s24le_planar,pcm_s32be,pcm_s32le,pcm_s32le_planar,pcm_s64be,pcm_s64le,pcm_s8,pcm_s8_planar,pcm_u16be,"
    "pcm_u16le,pcm_u24be,pcm_u24le,pcm_u32be,pcm_u32le,pcm_u8,s302m,speex,truehd,tta,vorbis,wavpack,wmalossless,wmapro,"
    "wmav1,wmav2,wmavoice"
)
# Of a film only the first pictures, where it is to be learned when it starts.
FILM_CODECS = (
    "av1,dnxhd,flv,h263,h264,hevc,libdav1d,mjpeg,mpeg1video,mpeg2video,mpeg4,msmpeg4,msmpeg4v2,png,prores,theora,vc1,vp8,"
    "vp9,wmv1,wmv2,wmv3"
)
SOUND_INPUT = {**SAFE_INPUT, "codec_whitelist": SOUND_CODECS}
PROBE_INPUT = {**SAFE_INPUT, "codec_whitelist": f"{SOUND_CODECS},{FILM_CODECS}"}
SUBTITLES_INPUT = {
    "protocol_whitelist": "file",
    "format_whitelist": "srt,webvtt",
    "codec_whitelist": "srt,subrip,webvtt",
}

MAX_ALLOCATION = 1 << 30  # bytes in one piece, which ffmpeg gives to no file whatever its header says
_CHUNK_BYTES = 1 << 20
_LAST_LINES = 3  # of what ffmpeg says, go into the error
_EMPTY_WORDS = re.compile("Task finished with error|Terminating thread|Nothing was written|Conversion failed")


class FfmpegError(Exception):
    """ffmpeg failed. The message is what it said last."""


def local(path: str) -> str:
    """The name by which ffmpeg takes `path` as a file, whatever colons, dashes or percent signs it has."""
    return f"file:{os.path.abspath(path)}"


class Ffmpeg:
    """One running ffmpeg. Its messages go to a file, so it never waits for us to read them."""

    def __init__(self, stream: Any, *, stdin: bool = False, stdout: bool = False) -> None:
        quiet = ["-hide_banner", "-loglevel", "error", "-nostats", "-max_alloc", str(MAX_ALLOCATION)] + (
            [] if stdin else ["-nostdin"]
        )
        command = ffmpeg.compile(stream, cmd=[imageio_ffmpeg.get_ffmpeg_exe(), *quiet], overwrite_output=True)
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115, closed in kill()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE if stdout else subprocess.DEVNULL,
            stderr=self._messages,
        )

    @property
    def stdin(self) -> IO[bytes]:
        """The pipe into ffmpeg."""
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        """The pipe out of ffmpeg."""
        assert self._process.stdout is not None
        return self._process.stdout

    def finish(self) -> None:
        """Closes the input and waits for the end. Raises FfmpegError if ffmpeg was not content."""
        self._close_input()
        code = self._process.wait()
        message = self._last_words()
        self.kill()
        if code:
            raise FfmpegError(message or f"ffmpeg ended with exit code {code}")

    def kill(self) -> None:
        """Ends ffmpeg, if it still runs, and lets go of everything. Safe to call again."""
        self._process.kill()
        self._close_input()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._messages.close()

    def _close_input(self) -> None:
        try:
            if self._process.stdin:
                self._process.stdin.close()
        except BrokenPipeError:  # ffmpeg is gone already; its exit code tells why
            pass

    def _last_words(self) -> str:
        self._messages.seek(0, os.SEEK_END)
        self._messages.seek(max(0, self._messages.tell() - 4096))
        lines = self._messages.read().decode(errors="replace").splitlines()
        told = [re.sub(r" @ 0x[0-9a-f]+", "", line).strip() for line in lines if not _EMPTY_WORDS.search(line)]
        return one_line("; ".join((told or lines)[-_LAST_LINES:]))


def run(stream: Any) -> None:
    """Runs an ffmpeg-python graph to its end. Raises FfmpegError."""
    process = Ffmpeg(stream)
    try:
        process.finish()
    finally:
        process.kill()


def feed(stream: Any, chunks: Iterable[np.ndarray]) -> None:
    """Runs an ffmpeg-python graph to its end, with float32 samples for its `pipe:`. Raises FfmpegError.

    What the chunks raise while they are made passes, and ffmpeg is ended.
    """
    process = Ffmpeg(stream, stdin=True)
    try:
        for chunk in chunks:
            try:
                process.stdin.write(np.ascontiguousarray(chunk, "<f4").tobytes())
            except BrokenPipeError:  # ffmpeg has ended; it tells why
                break
        process.finish()
    finally:
        process.kill()


def read(stream: Any) -> Iterator[bytes]:
    """What an ffmpeg-python graph writes to `pipe:`, piece by piece. Raises FfmpegError at the end of it."""
    process = Ffmpeg(stream, stdout=True)
    try:
        while chunk := process.stdout.read(_CHUNK_BYTES):
            yield chunk
        process.finish()
    finally:
        process.kill()


def read_pictures(stream: Any, *, width: int, height: int) -> Iterator[np.ndarray]:
    """The frames that an ffmpeg-python graph writes to `pipe:` as rgb24, each uint8 [H, W, 3].

    Raises FfmpegError at the end of them.
    """
    num_bytes, waiting = height * width * 3, bytearray()
    for chunk in read(stream):
        waiting += chunk
        while len(waiting) >= num_bytes:
            yield np.frombuffer(bytes(waiting[:num_bytes]), np.uint8).reshape(height, width, 3)
            del waiting[:num_bytes]
