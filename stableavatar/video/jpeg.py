"""Progressive JPEG files refine the picture scan by scan; a small file may hold so many that decoding takes hours."""

import mmap
import re

MAX_SCANS = 500  # programs write about 10; djpeg's own tests stop here

# A marker that begins a segment: a zero would be part of the coded picture, FF is padding, D0 to D8 stand alone.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_SCAN, _END = b"\xff\xda", b"\xff\xd9"


def num_scans(path: str, most: int = MAX_SCANS) -> int:
    """Scans of the first picture in a JPEG file; counting stops one after `most`."""
    scans, position = 0, 2
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
        while scans <= most and (marker := _MARKER.search(data, position)) and marker[0] != _END:
            scans += marker[0] == _SCAN
            position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    return scans
