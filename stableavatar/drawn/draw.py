"""One picture of a face, with the masks of face and lips. Flat shapes, drawn larger and scaled down for soft edges.

Points are [n, 2] (x right, y down) in fractions of the picture's smaller side, from the middle of the head.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from stableavatar.drawn.faces import INNER_MOUTH, Colour, Identity, mix

OVERSAMPLING = 4  # pixels drawn along each side of one
LARGE, OVERSAMPLING_LARGE = 256, 2  # pixels a side: from there edges are soft enough with fewer
MOUTH_Y = 0.185  # where closed lips meet
MAX_OPENING = 0.172  # 16.5 of 96 pixels
MIN_HALF_WIDTH, MAX_HALF_WIDTH = 0.072, 0.122  # a rounded mouth and a spread one
RAISED = 0.25  # share of the opening by which the upper lip goes up; the jaw falls by the rest
JAW_FALL = 0.028  # of the chin, at full opening
EYES_Y = -0.075
_INK: Colour = (44, 34, 34)

_ANGLES = np.linspace(0, 2 * np.pi, 48, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
_ACROSS = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 21))  # -1 to 1, closer at the corners


@dataclass(frozen=True, kw_only=True)
class Pose:
    """One moment: `mouth_opening`, `mouth_width` and `blink` 0 to 1, `dx`, `dy` fractions of the smaller side."""

    mouth_opening: float = 0.0
    mouth_width: float = 0.5
    blink: float = 0.0
    dx: float = 0.0
    dy: float = 0.0
    roll_degrees: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """uint8 RGB [H, W, 3], and masks bool [H, W]: the face without hair and neck, the lips with what is between."""

    image_HWC: np.ndarray
    face_mask_HW: np.ndarray
    lip_mask_HW: np.ndarray


@dataclass(frozen=True, kw_only=True)
class _Canvas:
    """A picture that is being drawn, and where the head lies in it."""

    pen: ImageDraw.ImageDraw
    turn: np.ndarray  # [2, 2], with the scale
    middle: np.ndarray  # [2], pixels

    def points(self, points: np.ndarray) -> list[float]:
        flat: list[float] = (points @ self.turn + self.middle).ravel().tolist()
        return flat

    def fill(self, points: np.ndarray, colour: Colour | int) -> None:
        self.pen.polygon(self.points(points), fill=colour)

    def line(self, points: np.ndarray, colour: Colour, thickness: float, *, closed: bool = False) -> None:
        width = max(1, round(thickness * float(np.hypot(*self.turn[0]))))
        points = np.concatenate([points, points[:2]]) if closed else points
        self.pen.line(self.points(points), fill=colour, width=width, joint="curve")


def draw(identity: Identity, pose: Pose, size: tuple[int, int]) -> Drawn:
    """The face at one moment. `size`: width and height in pixels."""
    image = _behind(identity, size).copy()
    canvas = _canvas(image, identity, pose)
    face, lips = _face_outline(identity, pose), _lip_outline(identity, pose)
    _draw_head(canvas, identity, face)
    _draw_eyes(canvas, identity, pose.blink)
    _draw_nose(canvas, identity)
    _draw_mouth(canvas, identity, pose, lips)
    masks = [_mask(identity, pose, size, outline) for outline in (face, lips)]
    return Drawn(image_HWC=np.asarray(image.reduce(_times(size))), face_mask_HW=masks[0], lip_mask_HW=masks[1])


def _times(size: tuple[int, int]) -> int:
    return OVERSAMPLING if min(size) < LARGE else OVERSAMPLING_LARGE


def _canvas(image: Image.Image, identity: Identity, pose: Pose) -> _Canvas:
    width, height = image.size
    side = min(width, height)
    angle = np.radians(pose.roll_degrees)
    turn = side * identity.scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    place = np.array(identity.place) + np.array([pose.dx, pose.dy])
    return _Canvas(pen=ImageDraw.Draw(image), turn=turn, middle=np.array([width / 2, height / 2]) + side * place)


def _mask(identity: Identity, pose: Pose, size: tuple[int, int], outline: np.ndarray) -> np.ndarray:
    mask = Image.new("L", (size[0] * _times(size), size[1] * _times(size)))
    _canvas(mask, identity, pose).fill(outline, 255)
    return np.asarray(mask.reduce(_times(size))) >= 128


def _ellipse(x: float, y: float, half_width: float, half_height: float) -> np.ndarray:
    return _CIRCLE * (half_width, half_height) + (x, y)


def _face_outline(identity: Identity, pose: Pose) -> np.ndarray:
    """An ellipse whose lower half is the jaw: squarer, and longer while the mouth is open."""
    points = _CIRCLE.copy()
    below = points[:, 1] > 0
    power = 1 - 0.3 * identity.jaw
    points[below, 0] = np.sign(points[below, 0]) * np.abs(points[below, 0]) ** power
    points = points * (identity.face_width, identity.face_height)
    points[below, 1] *= 1 + JAW_FALL * pose.mouth_opening / identity.face_height
    return points


def _inner_edges(pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Upper and lower edge of the inner mouth, each [n, 2] from left to right."""
    half_width = MIN_HALF_WIDTH + (MAX_HALF_WIDTH - MIN_HALF_WIDTH) * pose.mouth_width
    arch = np.sqrt(1 - _ACROSS**2) * MAX_OPENING * pose.mouth_opening
    x = _ACROSS * half_width
    upper = np.stack([x, MOUTH_Y - RAISED * arch], axis=1)
    return upper, np.stack([x, MOUTH_Y + (1 - RAISED) * arch], axis=1)


def _lip_outline(identity: Identity, pose: Pose) -> np.ndarray:
    """The outer edge of both lips, [n, 2]. The upper one has its bow."""
    upper, lower = _inner_edges(pose)
    thickness = identity.lip_thickness
    wider = 1 + 0.018 / float(np.abs(upper[:, 0]).max())
    arch = np.sqrt(1 - _ACROSS**2)
    bow = arch * (1 - 0.3 * np.exp(-((_ACROSS / 0.16) ** 2)))
    top = upper * (wider, 1) - np.stack([0 * bow, thickness * bow], axis=1)
    bottom = lower * (wider, 1) + np.stack([0 * arch, 1.25 * thickness * arch], axis=1)
    return np.concatenate([top, bottom[::-1]])


def _draw_mouth(canvas: _Canvas, identity: Identity, pose: Pose, lips: np.ndarray) -> None:
    canvas.fill(lips, identity.lips)
    upper, lower = _inner_edges(pose)
    if pose.mouth_opening * MAX_OPENING < 0.004:
        canvas.line(upper, mix(identity.lips, _INK, 0.45), 0.008)
    else:
        canvas.fill(np.concatenate([upper, lower[::-1]]), INNER_MOUTH)


def _draw_head(canvas: _Canvas, identity: Identity, face: np.ndarray) -> None:
    shade = mix(identity.skin, _INK, 0.16)
    _draw_hair_behind(canvas, identity)
    canvas.fill(np.array([[-0.11, 0.2], [0.11, 0.2], [0.12, 0.43], [0.08, 0.46], [-0.08, 0.46], [-0.12, 0.43]]), shade)
    for side in (-1, 1):
        x = side * identity.face_width
        canvas.fill(_ellipse(x, 0.0, identity.ear * 0.75, identity.ear * 1.25), shade)
    canvas.fill(face, identity.skin)
    if identity.has_beard:
        _draw_beard(canvas, identity, face)
    _draw_hair(canvas, identity)


def _draw_beard(canvas: _Canvas, identity: Identity, face: np.ndarray) -> None:
    """A short beard along the jaw, below the lips."""
    low = face[face[:, 1] > 0.04]
    low = low[np.argsort(low[:, 0])]
    inner = low[::-1] * (0.8, 1.0) - (0, 0.075)
    canvas.fill(np.concatenate([low, inner]), mix(identity.skin, identity.hair, 0.75))


def _draw_hair_behind(canvas: _Canvas, identity: Identity) -> None:
    wide, high = identity.face_width, identity.face_height
    match identity.hair_style:
        case "long":
            canvas.fill(_ellipse(0, -0.06, wide * 1.22, high * 1.1), identity.hair)
            outer = wide * 1.24
            shape = np.array([[-outer, -0.1], [outer, -0.1], [outer * 1.05, 0.46], [-outer * 1.05, 0.46]])
            canvas.fill(shape, identity.hair)
        case "bob":
            canvas.fill(_ellipse(0, -0.04, wide * 1.28, high * 1.0), identity.hair)
        case "curly":
            for angle in np.linspace(0.9 * np.pi, 2.1 * np.pi, 11):
                x, y = np.cos(angle) * wide * 1.12, np.sin(angle) * high * 0.95 - 0.02
                canvas.fill(_ellipse(x, y, 0.095, 0.095), identity.hair)
        case "bun":
            canvas.fill(_ellipse(0, -high - 0.03, 0.12, 0.1), identity.hair)


def _draw_hair(canvas: _Canvas, identity: Identity) -> None:
    """What lies over the forehead: between the skull and a hairline."""
    if identity.hair_style == "bald":
        return
    wide, high = identity.face_width * 1.04, identity.face_height
    angles = np.linspace(np.pi, 2 * np.pi, 25)
    skull = np.stack([np.cos(angles) * wide, np.sin(angles) * (high + 0.02) - 0.03], axis=1)
    if identity.hair_style == "quiff":
        skull[:, 1] -= 0.09 * np.exp(-(((skull[:, 0] - 0.08) / 0.14) ** 2))
    skull[:, 1] = np.minimum(skull[:, 1], _hairline(identity, skull[:, 0] / wide))
    line = np.linspace(wide, -wide, 25)
    canvas.fill(np.concatenate([skull, np.stack([line, _hairline(identity, line / wide)], axis=1)]), identity.hair)


def _hairline(identity: Identity, x: np.ndarray) -> np.ndarray:
    """Height of the hairline where x goes from -1 to 1 over the forehead."""
    sides = 0.16 * x**6
    top = -identity.face_height + 0.10
    match identity.hair_style:
        case "fringe":
            return top + 0.075 + 0.6 * sides
        case "side parting" | "bob":
            return top - 0.01 + 0.09 * np.abs(x - 0.4) ** 1.2 + sides
        case "cropped":
            return top - 0.015 + 0.8 * sides
        case _:
            return top + 0.05 * x**2 + sides


def _draw_eyes(canvas: _Canvas, identity: Identity, blink: float) -> None:
    wide = identity.eye_size
    open_height = 0.72 * wide * (1 - blink)
    for side in (-1, 1):
        x = side * identity.eye_distance
        if open_height < 0.01:
            canvas.line(np.array([[x - wide, EYES_Y], [x, EYES_Y + 0.012], [x + wide, EYES_Y]]), _INK, 0.014)
        else:
            _draw_open_eye(canvas, identity, x, open_height)
        brow_y = EYES_Y - 0.075
        brow = np.array([[x - 0.06, brow_y + 0.012 * (side < 0)], [x, brow_y - 0.012], [x + 0.06, brow_y]])
        brow[2, 1] += 0.012 * (side > 0)
        canvas.line(brow, mix(identity.hair, _INK, 0.45), identity.brow)
    if identity.has_glasses:
        _draw_glasses(canvas, identity)


def _draw_open_eye(canvas: _Canvas, identity: Identity, x: float, height: float) -> None:
    wide = identity.eye_size
    canvas.fill(_ellipse(x, EYES_Y, wide, height), (246, 246, 244))
    iris = 0.62 * wide
    canvas.fill(_ellipse(x, EYES_Y, iris, min(iris, height)), identity.eye)
    canvas.fill(_ellipse(x, EYES_Y, iris * 0.5, min(iris * 0.5, height)), (18, 16, 18))
    lid = _ellipse(x, EYES_Y, wide, height)
    canvas.line(np.concatenate([lid[24:], lid[:1]]), _INK, 0.012)


def _draw_glasses(canvas: _Canvas, identity: Identity) -> None:
    radius = identity.eye_distance - 0.028
    for side in (-1, 1):
        x = side * identity.eye_distance
        canvas.line(_ellipse(x, EYES_Y + 0.01, radius, radius * 0.9), _INK, 0.014, closed=True)
        temple = np.array([[x + side * radius, EYES_Y], [side * identity.face_width, EYES_Y - 0.01]])
        canvas.line(temple, _INK, 0.014)
    canvas.line(np.array([[-0.03, EYES_Y], [0.03, EYES_Y]]), _INK, 0.014)


def _draw_nose(canvas: _Canvas, identity: Identity) -> None:
    shade = mix(identity.skin, _INK, 0.28)
    bottom = EYES_Y + 0.02 + identity.nose_length
    wide = identity.nose_width
    bridge = np.array(
        [[0.012, EYES_Y + 0.02], [wide * 0.8, bottom - 0.012], [0, bottom], [-wide * 0.8, bottom - 0.012]]
    )
    canvas.line(bridge[1:], shade, 0.014)
    canvas.line(bridge[:2], mix(identity.skin, _INK, 0.14), 0.01)


@lru_cache(maxsize=8)
def _behind(identity: Identity, size: tuple[int, int]) -> Image.Image:
    """What does not move: the background and the shoulders, drawn larger."""
    width, height = (side * _times(size) for side in size)
    image = _background(identity, width, height)
    side = min(width, height)
    canvas = _canvas(image, identity, Pose())
    bottom = height / side  # far enough down for a tall picture
    canvas.fill(_ellipse(0, 0.56, 0.42, 0.15), identity.clothes)
    canvas.fill(np.array([[-0.42, 0.56], [0.42, 0.56], [0.5, bottom], [-0.5, bottom]]), identity.clothes)
    _draw_collar(canvas, identity)
    return image


def _draw_collar(canvas: _Canvas, identity: Identity) -> None:
    skin = mix(identity.skin, _INK, 0.16)
    if identity.collar == "round":
        canvas.fill(_ellipse(0, 0.43, 0.15, 0.06), skin)
        return
    canvas.fill(np.array([[-0.13, 0.42], [0.13, 0.42], [0, 0.56]]), skin)
    if identity.collar == "shirt":
        light = mix(identity.clothes, (255, 255, 255), 0.45)
        for side in (-1, 1):
            canvas.fill(np.array([[side * 0.13, 0.40], [side * 0.02, 0.54], [side * 0.17, 0.56]]), light)


def _background(identity: Identity, width: int, height: int) -> Image.Image:
    first, second = identity.backs
    if identity.background == "gradient":
        column = np.linspace(first, second, height).round().astype(np.uint8)
        return Image.fromarray(np.repeat(column[:, None], width, axis=1))
    image = Image.new("RGB", (width, height), first)
    pen, soft = ImageDraw.Draw(image), mix(first, second, 0.45)
    match identity.background:
        case "stripes":
            for left in range(0, width, max(2, height // 4)):
                pen.rectangle((left, 0, left + height // 8, height), fill=soft)
        case "circles":
            for x, y, radius in ((0.08, 0.2, 0.16), (0.92, 0.12, 0.12), (0.85, 0.55, 0.18), (0.1, 0.7, 0.12)):
                r = radius * min(width, height)
                pen.ellipse((x * width - r, y * height - r, x * width + r, y * height + r), fill=soft)
        case "window":
            pen.rectangle((0.62 * width, 0.06 * height, 0.96 * width, 0.5 * height), fill=soft)
            pen.line((0.79 * width, 0.06 * height, 0.79 * width, 0.5 * height), fill=first, width=height // 50)
    return image
