import os
from pathlib import Path

import pytest

from stableavatar.errors import BadInput
from stableavatar.subtitles import read_subtitles

SRT = """1
00:00:00,500 --> 00:00:01,000
<i>Grüße</i>

2
00:00:01,500 --> 00:00:09,000
two
lines

3
00:00:05,000 --> 00:00:06,000
too late
"""
VTT = """WEBVTT

NOTE not to be seen

00:00.500 --> 00:01.000 line:0
<i>Grüße</i>

00:01.500 --> 00:09.000
<v Anna>two
lines
"""
CUT = """1
00:00:00,500 --> 00:00:01,000
<i>Grüße</i>

2
00:00:01,500 --> 00:00:03,000
two
lines
"""


@pytest.mark.parametrize(
    "data",
    [
        SRT.encode(),
        SRT.encode("utf-8-sig"),
        SRT.encode("utf-16"),
        SRT.replace("\n", "\r\n").encode(),
        VTT.encode(),
    ],
    ids=["srt", "with a mark", "UTF-16", "from Windows", "vtt"],
)
def test_every_kind_gives_the_same_cut_to_the_video(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "odd name %d.txt"  # what is inside counts
    path.write_bytes(data)
    srt = read_subtitles(str(path), duration_s=3.0)
    assert srt.decode().strip() == CUT.strip()
    assert read_subtitles(str(path), duration_s=3.0) == srt


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "no such file"),
        (b"", "is not subtitles that can be read"),
        (b"just\nwords\n", "is not subtitles that can be read"),
        (b"WEBVTT\n", "shows nothing in the 3 s of the video"),
        (b"1\n00:00:05,000 --> 00:00:06,000\ntoo late\n", "shows nothing in the 3 s of the video"),
        (SRT.encode("latin-1"), "is not UTF-8 text"),
        (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "is not subtitles"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "is not subtitles"),
    ],
)
def test_a_bad_file_is_named_with_the_remedy(tmp_path: Path, data: bytes | None, message: str) -> None:
    path = tmp_path / "a.srt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(BadInput, match=r"a\.srt.*(SRT or WebVTT|Correct the path)") as error:
        read_subtitles(str(path), duration_s=3.0)
    assert message in str(error.value)


def test_a_file_too_large_for_subtitles_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.srt"
    path.touch()
    os.truncate(path, 1 << 30)
    with pytest.raises(BadInput, match=r"larger than 20,000,000 bytes"):
        read_subtitles(str(path), duration_s=3.0)


def test_where_two_overlap_one_shows_both(tmp_path: Path) -> None:
    cues = [("1", "00:00:00,500", "00:00:04,000", "long"), ("2", "00:00:01,000", "00:00:02,000", "note")]
    cues += [("3", "00:00:01,000", "00:00:02,000", "note"), ("4", "00:00:05,000", "00:00:06,000", "alone")]
    path = tmp_path / "a.srt"
    path.write_text("".join(f"{number}\n{start} --> {end}\n{text}\n\n" for number, start, end, text in cues))
    assert read_subtitles(str(path), duration_s=9.0).decode() == (
        "1\n00:00:00,500 --> 00:00:01,000\nlong\n\n"
        "2\n00:00:01,000 --> 00:00:02,000\nlong\nnote\n\n"
        "3\n00:00:02,000 --> 00:00:04,000\nlong\n\n"
        "4\n00:00:05,000 --> 00:00:06,000\nalone\n\n"
    )
    path.write_text(
        "".join(f"{n}\n00:00:00,000 --> 00:{n // 60:02}:{n % 60:02},000\n{'x' * 9}{n}\n\n" for n in range(1, 3000))
    )
    with pytest.raises(BadInput, match="too many texts at once"):
        read_subtitles(str(path), duration_s=9999.0)
