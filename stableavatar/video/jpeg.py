"""Progressive JPEG files refine the picture scan by scan; a small file may hold so many that decoding takes hours."""

import mmap
import os

MAX_SCANS = 500  # programs write about 10; djpeg's own tests stop here

_SCAN, _END = 0xDA, 0xD9
_ALONE = {0x01, 0xD8, *range(0xD0, 0xD8)}  # markers without a segment


def num_scans(path: str, most: int = MAX_SCANS) -> int:
    """Scans of the first picture in a JPEG file; counting stops one after `most`. Reads no more than markers."""
    scans, position = 0, 2
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), os.fstat(file.fileno()).st_size, prot=mmap.PROT_READ) as data,
    ):
        while scans <= most and (position := data.find(b"\xff", position)) >= 0 and position + 4 <= len(data):
            marker = data[position + 1]
            if marker == _END:
                break
            scans += marker == _SCAN
            # A zero follows an FF that belongs to the coded picture; FF FF is padding.
            is_segment = marker not in (0x00, 0xFF) and marker not in _ALONE
            position += (
                2 + int.from_bytes(data[position + 2 : position + 4], "big") if is_segment else 1 + (marker != 0xFF)
            )
    return scans
