"""Rows that are hostile or wrong: the files they name, and the words that their message must hold."""

import json
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ffmpeg
import imageio_ffmpeg
import torch
from PIL import Image

from pipelines import plan
from pipelines.check import Check
from stableavatar.limits import Limits
from stableavatar.presets import tiny
from tests.conftest import EXAMPLE, EXAMPLES
from tests.media import write_tone

Words = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row. `make` writes its files to a folder and gives the cells; good files stand in for what it leaves out."""

    name: str
    make: Callable[[Path], Words]
    message: str
    limits: Limits = Limits()


def run(case: Case, folder: Path) -> Words:
    """The row after reading and checking."""
    line = json.dumps({**EXAMPLE, **case.make(folder)}).encode()
    (row,) = plan.select_rows(plan.read_rows(line, f"{folder}/night.jsonl"), None, model="tiny", weights_hash="0")
    return Check(tiny(), "/out", case.limits)(row)


def png(width: int, height: int, *chunks: tuple[bytes, bytes], pixels: bytes | None = None) -> bytes:
    """A PNG file, grey of 8 bits, with further chunks before its pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((1 + width) * height)) if pixels is None else pixels
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def scans(num_scans: int) -> bytes:
    """A progressive JPEG of 64x64 whose scans change nothing."""

    def segment(marker: int, data: bytes) -> bytes:
        return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data

    tables = segment(0xDB, b"\0" + b"\1" * 64) + segment(0xC2, struct.pack(">BHHB", 8, 64, 64, 1) + b"\1\x11\0")
    for kind, symbol in ((0x00, 0x00), (0x10, 0xE0)):
        tables += segment(0xC4, bytes([kind, 1, *[0] * 15, symbol]))
    first = segment(0xDA, b"\1\1\0\0\0\0") + bytes(9)
    return b"\xff\xd8" + tables + first + (segment(0xDA, b"\1\1\0\1\x3f\0") + b"\0\1") * num_scans + b"\xff\xd9"


def wav(sample_rate: int = 16_000, channels: int = 1, data: bytes = bytes(32_000)) -> bytes:
    """A WAV file whose header says what it is told."""
    rate = sample_rate * channels * 2 % 2**32
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, sample_rate, rate, channels * 2 % 2**16, 16)
    return b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVE" + form + struct.pack("<4sI", b"data", len(data)) + data


def file(column: str, name: str, data: bytes, folder: Path) -> Words:
    """A file of the folder, named in a column."""
    (folder / name).write_bytes(data)
    return {column: name}


def says(words: Words, folder: Path) -> Words:
    """Cells alone."""
    return words


def damaged_avif(folder: Path) -> Words:
    Image.new("RGB", (640, 480)).save(folder / "a.avif")
    data = bytearray((folder / "a.avif").read_bytes())
    data[-100:] = bytes(100)
    return file("portrait", "a.avif", bytes(data), folder)


def film_of_another_file(folder: Path) -> Words:
    """A QuickTime film whose samples lie in `secret.raw` of the same folder."""
    (folder / "a.wav").write_bytes(wav())
    ffmpeg.input(str(folder / "a.wav")).output(str(folder / "a.mov"), acodec="pcm_s16le", loglevel="error").run(
        cmd=imageio_ffmpeg.get_ffmpeg_exe()
    )
    (folder / "secret.raw").write_bytes(b"\x11\x22" * 40_000)
    path = os.fsencode(folder / "secret.raw")
    path += b"\0" * (len(path) % 2)
    alias = bytes(10) + b"\1v".ljust(28, b"\0") + bytes(12) + b"\x0asecret.raw".ljust(64, b"\0") + bytes(16)
    alias += struct.pack(">HH", 1, 1) + bytes(16) + struct.pack(">HH", 2, len(path)) + path + b"\xff\xff\0\0"
    table = struct.pack(">4sIIII", b"dref", 0, 1, 12 + len(alias), int.from_bytes(b"alis", "big")) + bytes(4) + alias
    data = bytearray((folder / "a.mov").read_bytes())
    place = data.index(b"dref")
    (length,) = struct.unpack_from(">I", data, place - 4)
    more = len(table) + 4 - length
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):  # the boxes around it
        around = data.rindex(kind, 0, place) - 4
        struct.pack_into(">I", data, around, struct.unpack_from(">I", data, around)[0] + more)
    data[place - 4 : place - 4 + length] = struct.pack(">I", len(table) + 4) + table
    return file("audio", "other.mov", bytes(data), folder)


def large_frame(folder: Path) -> Words:
    Image.new("P", (64, 64)).save(folder / "a.gif")
    data = bytearray((folder / "a.gif").read_bytes())
    place = data.index(b"\x2c") + 5
    data[place : place + 4] = struct.pack("<HH", 65535, 65535)
    return file("portrait", "a.gif", bytes(data), folder)


def lora_of_any_rank(folder: Path) -> Words:
    down, up = torch.zeros(1, 1).expand(10**9, 48), torch.zeros(1, 1).expand(48, 10**9)
    layer = "transformer.blocks.0.attn1.to_q"
    torch.save({f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}, folder / "a.pt")
    return {"lora": "a.pt"}


def pipe(column: str, folder: Path) -> Words:
    os.mkfifo(folder / "pipe.wav")
    return {column: "pipe.wav"}


def long_tone(folder: Path) -> Words:
    write_tone(folder / "long.wav", duration_s=3.0, sample_rate=8000)
    return {"audio": "long.wav"}


def sparse(folder: Path) -> Words:
    (folder / "big.wav").touch()
    os.truncate(folder / "big.wav", 30_000_000_000)
    return {"audio": "big.wav"}


def link_outside(folder: Path) -> Words:
    (folder / "in").mkdir()
    (folder / "in/face.png").symlink_to(f"{EXAMPLES}/portrait_nasa.jpg")
    return {"portrait": "in/face.png"}


BOMB = zlib.compress(bytes(100_000_000), 9)
OFFLINE = {
    "hls.m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n",
    "cat.ffconcat": b"ffconcat version 1.0\nfile /etc/passwd\n",
}
OFFLINE["dash.mpd"] = b'<?xml version="1.0"?><MPD><BaseURL>http://127.0.0.1:9/</BaseURL></MPD>'
OFFLINE["stream.sdp"] = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
ONLY_HERE = Limits(inputs=("/srv/in", "s3://bucket/in"))

PICTURES = {
    "a picture of 50,000 x 50,000": (png(50_000, 50_000, pixels=b""), "too large: 50000x50000"),
    "a compressed text that swells": (png(64, 64, (b"zTXt", b"k\0\0" + BOMB)), "Decompressed data too large"),
    "an international text that swells": (png(64, 64, (b"iTXt", b"k\0\1\0\0\0" + BOMB)), "Decompressed data too large"),
    "a colour profile that swells": (png(64, 64, (b"iCCP", b"k\0\0" + BOMB)), "Decompressed data too large"),
    "a broken picture": (png(64, 64)[:60], "not a picture that can be read"),
    "an empty picture": (b"", "is empty (0 bytes)"),
    "a text called a picture": (b"hello" * 99, "not a picture that can be read"),
    "an SVG that names a file": (SVG, "not a picture that can be read"),
    "a PostScript program": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n", "not a picture"),
    "a picture of one dot": (png(1, 1), "too small: 1x1"),
    "a JPEG of thousands of scans": (scans(2000), "more than 500 scans"),
    "a sound in place of a picture": (wav(), "not a picture that can be read"),
}
SOUNDS = {
    "an empty sound": (b"", "is empty (0 bytes)"),
    "a text called a sound": (b"hello" * 99, "not sound that can be decoded"),
    "a picture in place of a sound": (png(64, 64), "not sound that can be decoded"),
    "a sound without samples": (wav(data=b""), "Give a whole sound file"),
    "one sample each second": (wav(sample_rate=1), "sample rate of 1 Hz"),
    "two thousand million samples each second": (wav(sample_rate=2**31 - 1), "sample rate of 2147483647 Hz"),
    "64 channels": (wav(channels=64), "64 audio channels"),
    "a sound that breaks off": (wav()[:20_000], "breaks off at 0.62 s"),
}
IDS = {
    "an id that is a formula": ("=HYPERLINK(1)", "begin with another sign"),
    "an id that is a formula behind a blank": (" @SUM(1)", "begin with another sign"),
    "an id that is a formula in wide signs": ("＝1", "begin with another sign"),
    "a negative number as id": (-5, "begin with another sign"),
    "an id that is written from right to left": ("anna\u202egpj", "cannot be seen"),
    "an id with a sign of no width": ("an\u200bna", "cannot be seen"),
    "an id with a line break": ("a\nb", "take the control characters out"),
    "an id of a million signs": ("x" * 1_000_000, "has 1,000,000 characters; give at most 255"),
}
REFERENCES = {
    "a local pipe by its number": ("/dev/fd/0/x", "does not exist"),
    "a device": ("/dev/zero", "is a device"),
    "a folder": ("/tmp", "is a folder"),
    "what the kernel makes up": ("/proc/self/environ", "is empty (0 bytes)"),
    "a chain of stores": ("zip://a.wav::s3://bucket/a.zip", "joins several stores"),
    "a scheme that is not asked for": ("http://169.254.169.254/latest/meta-data", "may not name http:// files"),
    "a scheme that runs on other machines": ("ssh://host/etc/passwd", "may not name ssh:// files"),
    "a scheme that does not exist": ("nope://a.wav", "may not name nope:// files"),
    "a way up inside of a URI": ("https://host/in/%252e%252e/secret.wav", "holds `..`"),
    "a path with a null": ("/tmp/a\0.wav", "take the control characters out"),
    "a path that nobody wrote": ("a" * 10_000, "has 10,000 characters; give at most 8,192"),
    "a missing file": ("nobody.wav", "nobody.wav does not exist"),
}
OUTSIDE = {
    "a file outside of the allowed folders": "/etc/passwd",
    "a way up out of the allowed folders": "/srv/in/../secret.wav",
    "a neighbour whose name begins alike": "/srv/inside/a.wav",
    "another bucket": "s3://other/a.wav",
    "a key whose name begins alike": "s3://bucket/inside/a.wav",
}
TEXTS: dict[str, tuple[Words, str]] = {
    "a prompt as long as a book": ({"prompt": "x" * 1_000_000}, "has 1,000,000 characters; give at most 10,000"),
    "a schedule without end": ({"text_schedule": "5x999999999"}, "not a number of steps"),
    "a length that is no number": ({"end_s": "NaN"}, "end_s is"),
    "a span that ends before it starts": ({"start_s": 2, "end_s": 1}, "let end_s be greater"),
    "a start past the limit": ({"start_s": 900_000}, "begins after the limit of 14400 s"),
    "too many steps": ({"num_steps": 10**9}, "from 1 to 1000"),
    "a LoRA that is a program": ({"lora": "/bin/sh"}, "Give a .safetensors file"),
    "a LoRA without end": ({"lora": "/dev/zero"}, "is a device"),
}

CASES = (
    *(Case(name=n, make=partial(file, "portrait", "face.png", d), message=m) for n, (d, m) in PICTURES.items()),
    Case(name="an AVIF whose picture is damaged", make=damaged_avif, message="not a picture that can be read"),
    Case(name="a GIF with a frame larger than itself", make=large_frame, message="too large: 65535x65535"),
    Case(
        name="a picture larger than this run allows",
        make=partial(says, {}),
        message="raise --max-portrait-pixels",
        limits=Limits(max_portrait_pixels=1000),
    ),
    *(Case(name=n, make=partial(file, "audio", "speech.wav", d), message=m) for n, (d, m) in SOUNDS.items()),
    *(
        Case(name=f"a playlist: {n}", make=partial(file, "audio", n, d), message="not sound that can be decoded")
        for n, d in OFFLINE.items()
    ),
    Case(name="a film whose samples lie in another file", make=film_of_another_file, message="holds no sound"),
    Case(name="a sound longer than allowed", make=long_tone, message="--max-sound-s", limits=Limits(max_sound_s=2)),
    Case(name="a file of 30 GB that takes no room", make=sparse, message="at most 20,000,000,000"),
    Case(name="a pipe in place of a picture", make=partial(pipe, "portrait"), message="is a pipe"),
    Case(name="a pipe in place of a sound", make=partial(pipe, "audio"), message="is a pipe"),
    *(Case(name=n, make=partial(says, {"id": id}), message=m) for n, (id, m) in IDS.items()),
    *(Case(name=n, make=partial(says, {"audio": reference}), message=m) for n, (reference, m) in REFERENCES.items()),
    *(
        Case(name=n, make=partial(says, {"portrait": uri}), message="lies outside", limits=ONLY_HERE)
        for n, uri in OUTSIDE.items()
    ),
    Case(name="a link that leads outside", make=link_outside, message="lies outside", limits=ONLY_HERE),
    Case(name="a LoRA of a few bytes that swells", make=lora_of_any_rank, message="a rank of 1000000000"),
    *(Case(name=n, make=partial(says, words), message=m) for n, (words, m) in TEXTS.items()),
)  # fmt: skip
