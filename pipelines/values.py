"""Values as they are written on the command line, read and checked."""

import argparse
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from datetime import time as clock
from typing import Any

from manifests.cells import BadCell, Value, convert
from manifests.redact import redacted
from manifests.schema import MANIFEST
from pipelines import storage
from stableavatar.choices import CHOICES
from stableavatar.errors import BadInput
from stableavatar.limits import Limits


def pairs(texts: Iterable[str]) -> dict[str, str]:
    """NAME=VALUE of each text, the values as they are written."""
    return {name: value for name, _, value in (text.partition("=") for text in texts)}


def typed_settings(values: Mapping[str, Any], names: Sequence[str] = CHOICES) -> dict[str, Value]:
    """The values of some of the columns `names`, typed as in a manifest. Raises BadInput."""
    columns = {column.name: column for column in MANIFEST if column.name in names}
    if unknown := values.keys() - columns.keys():
        raise BadInput(f"settings: there is no {min(unknown)!r} to set; there is: {', '.join(names)}.")
    try:
        typed = {name: convert(columns[name], value) for name, value in values.items()}
    except BadCell as error:
        raise BadInput(f"settings: {error}.") from error
    if empty := [name for name, value in typed.items() if value is None]:
        raise BadInput(f"settings: {empty[0]} is empty; give a value, or leave it out.")
    return typed


def parse_argument(name: str, parse: Callable[[str], Any], value: Any) -> Any:
    """What `parse`, one of the functions below, makes of a value of Python; None stays. Raises BadInput."""
    try:
        return None if value is None else parse(str(value))
    except argparse.ArgumentTypeError as error:
        raise BadInput(f"{name}: {error}.") from error


def with_limits(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments in which those of Limits stand one by one, as `pipelines.render` takes them."""
    names = {field.name for field in fields(Limits)}
    lists = {name: tuple(arguments[name]) for name in ("input_schemes", "inputs")}
    limits = Limits(**{name: arguments[name] for name in names} | lists)
    return {**{name: value for name, value in arguments.items() if name not in names}, "limits": limits}


def one_of(names: Iterable[str]) -> Callable[[str], str]:
    """A function that takes one of some names."""

    def parse(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"there is no {text!r}; there is: {', '.join(names)}")
        return text

    return parse


def listed(text: str) -> tuple[str, ...]:
    """NAME,..."""
    return tuple(name.strip() for name in text.split(","))


def loras(text: str) -> list[tuple[str, float]]:
    """FILE:WEIGHT,... as in a manifest."""
    from stableavatar.model.lora import parse_loras

    try:
        return parse_loras(text)
    except ValueError as error:
        raise BadInput(f"lora: {error}.") from error


def absolute_loras(text: str) -> str:
    """FILE:WEIGHT,... with every file named from the root."""
    return ",".join(f"{storage.absolute(path)}:{weight:g}" for path, weight in loras(text))


def moment(text: str) -> datetime:
    """A time of day, the next one that comes, or a date and time; local, unless it says its zone."""
    try:
        if "T" in text or " " in text:
            return _in_future(datetime.fromisoformat(text).astimezone())
        now, at = datetime.now().astimezone(), clock.fromisoformat(text)
        # Each day on its own: clocks may change in between, and the date of another zone may be another one.
        days = (now.date() + timedelta(number) for number in (-1, 0, 1, 2))
        return next(time for day in days if (time := datetime.combine(day, at).astimezone()) > now)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write 06:30, or 2026-01-31T06:30") from None


def _in_future(time: datetime) -> datetime:
    if time <= datetime.now().astimezone():
        raise argparse.ArgumentTypeError(f"{time:%Y-%m-%d %H:%M} has passed; give a time that is to come")
    return time


def seconds(text: str) -> float:
    """A number from 0."""
    return 0.0 if re.fullmatch(r"0+(\.0*)?", text.strip()) else amount(text)


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def size(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT in pixels."""
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 96x96: width x height in pixels")
    return int(found[1]), int(found[2])


def whole(text: str) -> int:
    """A whole number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def node_file(text: str) -> str:
    """The absolute path of a file that lies on each node."""
    if "://" in text and not text.startswith("file://"):
        raise argparse.ArgumentTypeError(
            f"{redacted(text)} is not a local file. Copy it to the same path on every node, or to a disk they share"
        )
    return storage.absolute(os.path.expanduser(text))


def amount(text: str) -> float:
    """A number above 0, also written as 5e9."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def count(text: str) -> int:
    """The same without what is behind the point."""
    return int(amount(text))
