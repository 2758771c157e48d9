"""The portrait: checked, matched with one of the model's sizes, and cropped to it."""

import math
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

from stableavatar.errors import BadInput
from stableavatar.limits import Limits
from stableavatar.text import one_line
from stableavatar.video.jpeg import MAX_SCANS, num_scans

Image.MAX_IMAGE_PIXELS = None  # the limit is ours, in _check_size
MIN_SIDE = 16  # pixels; less cannot show a face
MAX_BYTES = 1_000_000_000  # 80 million pixels without compression need at most 640 MB
CUT_ABOVE = 0.2  # of what a crop cuts off in height; the head is above the middle

# EXIF: how a picture that was stored turned or mirrored is put upright.
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip

# Pictures people have (JPEG includes MPO). Others (EPS) start programs or are no portraits.
_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")
# What its readers raise for damaged files, as thousands of randomly damaged ones have shown.
_PILLOW_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, RuntimeError, MemoryError, OverflowError, struct.error,
)  # fmt: skip
_REMEDY = "Give a PNG, JPEG or WebP picture."


def check_portrait(path: str, limits: Limits = Limits()) -> tuple[int, int]:
    """(width, height) in pixels as the picture is to be seen, after decoding all of it; an animation's first frame.

    Raises BadInput: no such file, empty, not an image, broken off, too large, too small.
    """
    with _opened(path, limits) as image:
        image.load()
        turned = image.getexif().get(_ORIENTATION, 1) >= 5  # lies on its side
        width, height = image.size
        return (height, width) if turned else (width, height)


def choose_size(portrait_size: tuple[int, int], sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The (width, height) of `sizes` whose shape is nearest to the portrait's; of equally near ones the first."""

    def distance(size: tuple[int, int]) -> float:
        return abs(math.log(size[0] / size[1]) - math.log(portrait_size[0] / portrait_size[1]))

    return min(sizes, key=distance)


def load_portrait(path: str, width: int, height: int, limits: Limits = Limits()) -> np.ndarray:
    """The portrait scaled to cover `width` x `height` and cropped, never squeezed: uint8 [H, W, 3], sRGB.

    EXIF orientation is applied, transparency is laid over white, a colour profile is converted.
    Raises BadInput as `check_portrait`.
    """
    with _opened(path, limits) as image:
        rgb = _to_srgb(_over_white(_to_8_bit(_upright(image))), image.info.get("icc_profile"))
        return np.asarray(rgb.resize((width, height), Image.Resampling.LANCZOS, box=_crop(rgb.size, width / height)))


def _crop(size: tuple[int, int], ratio: float) -> tuple[float, float, float, float]:
    """The largest box of the given ratio (width / height): left, top, right, bottom. Centred, but heads are kept."""
    width, height = min(size[0], size[1] * ratio), min(size[1], size[0] / ratio)
    left, top = (size[0] - width) / 2, (size[1] - height) * CUT_ABOVE
    return left, top, left + width, top + height


def _upright(image: Image.Image) -> Image.Image:
    # ImageOps.exif_transpose also writes the EXIF data anew, which fails where they are damaged.
    method = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    return image if method is None else image.transpose(method)


def _to_8_bit(image: Image.Image) -> Image.Image:
    """16-bit grey, which Pillow would clip instead of scale."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its pixels are floating point numbers")
    return image


def _over_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image if image.mode in ("CMYK", "RGB") else image.convert("RGB")  # convert would copy
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        try:
            srgb = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, BytesIO(profile), srgb, outputMode="RGB")
            return converted or image.convert("RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):  # a broken or grey profile: the numbers stand as they are
            pass
    return image if image.mode == "RGB" else image.convert("RGB")


@contextmanager
def _opened(path: str, limits: Limits) -> Iterator[Image.Image]:
    """The picture, its pixels not yet read. What Pillow cannot read is the fault of the file."""
    if not os.path.isfile(path):
        raise BadInput(f"{path}: no such file. Correct the path of the portrait.")
    if not os.path.getsize(path):
        raise BadInput(f"{path} is empty (0 bytes). {_REMEDY}")
    if os.path.getsize(path) > MAX_BYTES:
        raise BadInput(f"{path} has {os.path.getsize(path):,} bytes, more than {MAX_BYTES:,}. {_REMEDY}")
    try:
        with Image.open(path, formats=_FORMATS) as image:
            _check_size(path, image.size, limits.max_portrait_pixels)
            if image.format in ("JPEG", "MPO") and num_scans(path) > MAX_SCANS:
                raise BadInput(f"{path} has more than {MAX_SCANS} scans, made to take hours. Save the picture again.")
            yield image
    except _PILLOW_ERRORS as error:
        reason = one_line(str(error) or type(error).__name__)
        raise BadInput(f"{path} is not a picture that can be read ({reason}). {_REMEDY}") from error


def _check_size(path: str, size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise BadInput(
            f"{path} is too large: {size[0]}x{size[1]} pixels. Scale it down below {max_pixels:,} pixels, "
            "or raise --max-portrait-pixels."
        )
    if min(size) < MIN_SIDE:
        raise BadInput(
            f"{path} is too small: {size[0]}x{size[1]} pixels. Give a portrait of at least {MIN_SIDE} a side."
        )
