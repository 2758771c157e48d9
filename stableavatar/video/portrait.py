"""The portrait: checked, matched with one of the model's sizes, and cropped to it."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms, ImageOps

from stableavatar.errors import BadInput

Image.MAX_IMAGE_PIXELS = None  # the limit is ours, in _check_size
MAX_PIXELS = 80_000_000  # one decoded picture then needs at most 320 MB; a larger one is a mistake or an attack
MIN_SIDE = 16  # pixels; less cannot show a face
CUT_ABOVE = 0.2  # of what a crop cuts off in height; the head is above the middle

# Pictures people have (JPEG includes MPO). Others (EPS) start programs or are no portraits.
_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")
_REMEDY = "Give a PNG, JPEG or WebP picture."


def check_portrait(path: str) -> tuple[int, int]:
    """(width, height) in pixels as the picture is to be seen, after decoding all of it; an animation's first frame.

    Raises BadInput: no such file, empty, not an image, broken off, too large, too small.
    """
    with _opened(path) as image:
        image.load()
        turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientation: lies on its side
        width, height = image.size
        return (height, width) if turned else (width, height)


def choose_size(portrait_size: tuple[int, int], sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The (width, height) of `sizes` whose shape is nearest to the portrait's; of equally near ones the first."""

    def distance(size: tuple[int, int]) -> float:
        return abs(math.log(size[0] / size[1]) - math.log(portrait_size[0] / portrait_size[1]))

    return min(sizes, key=distance)


def load_portrait(path: str, width: int, height: int) -> np.ndarray:
    """The portrait scaled to cover `width` x `height` and cropped, never squeezed: uint8 [H, W, 3], sRGB.

    EXIF orientation is applied, transparency is laid over white, a colour profile is converted.
    Raises BadInput as `check_portrait`.
    """
    with _opened(path) as image:
        upright = ImageOps.exif_transpose(image)
        rgb = _to_srgb(_over_white(_to_8_bit(upright)), image.info.get("icc_profile"))
        return np.asarray(rgb.resize((width, height), Image.Resampling.LANCZOS, box=_crop(rgb.size, width / height)))


def _crop(size: tuple[int, int], ratio: float) -> tuple[float, float, float, float]:
    """The largest box of the given ratio (width / height): left, top, right, bottom. Centred, but heads are kept."""
    width, height = min(size[0], size[1] * ratio), min(size[1], size[0] / ratio)
    left, top = (size[0] - width) / 2, (size[1] - height) * CUT_ABOVE
    return left, top, left + width, top + height


def _to_8_bit(image: Image.Image) -> Image.Image:
    """16-bit grey, which Pillow would clip instead of scale."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its pixels are floating point numbers")
    return image


def _over_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image if image.mode == "CMYK" else image.convert("RGB")
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
    return image.convert("RGB")


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    """The picture, its pixels not yet read. What Pillow cannot read is the fault of the file."""
    if not os.path.isfile(path):
        raise BadInput(f"{path}: no such file. Correct the path of the portrait.")
    if not os.path.getsize(path):
        raise BadInput(f"{path} is empty (0 bytes). {_REMEDY}")
    try:
        with Image.open(path, formats=_FORMATS) as image:
            _check_size(path, image.size)
            yield image
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # all of which Pillow's readers raise
        raise BadInput(f"{path} is not a picture that can be read ({error}). {_REMEDY}") from error


def _check_size(path: str, size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise BadInput(f"{path} is too large: {size[0]}x{size[1]} pixels. Scale it down below {MAX_PIXELS:,} pixels.")
    if min(size) < MIN_SIDE:
        raise BadInput(
            f"{path} is too small: {size[0]}x{size[1]} pixels. Give a portrait of at least {MIN_SIDE} a side."
        )
