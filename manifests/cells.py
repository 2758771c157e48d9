"""From a cell as the file has it (text, number, null) to the typed value of its column."""

import json
import math
import re
import unicodedata
from collections.abc import Callable
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

import pyarrow as pa

from manifests.identity import FORMULA_SIGNS, is_invisible
from manifests.schema import NUMBER, TEXT, TYPE_WORDS, WHOLE, YES_NO, Column

Value = str | int | float | bool | None

# Python's own int() and float() would also take "1_000" and digits of other scripts.
_NUMERAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_WHOLE_NUMERAL = re.compile(r"[+-]?\d{1,30}", re.ASCII)
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class BadCell(ValueError):
    """The cell does not fit its column. The message says what was found and the remedy."""


def convert(column: Column, cell: Any) -> Value:
    """The typed value of `cell`; None if it is null or blank. Booleans are not numbers, NaN is no value.

    Raises BadCell.
    """
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        if column.required:
            raise BadCell(f"{column.name} is empty; give the {column.meaning}")
        return None
    return _CONVERTERS[column.type](column, cell)


def shown(value: Any) -> str:
    """`value` for a message: one line, quoted if it is text, cut if it is long."""
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _refuse(column: Column, cell: Any) -> BadCell:
    kind = TYPE_WORDS[column.type]
    wanted = kind if column.type in (TEXT, YES_NO) else f"a {kind} {column.range}"
    remedy = f"give {wanted.strip()}"
    if isinstance(cell, float) and math.isnan(cell):
        remedy += ", or leave the cell empty (null)"
    return BadCell(f"{column.name} is {shown(cell)}; {remedy}")


def _text(column: Column, cell: Any) -> str | None:
    if column.also_number and isinstance(cell, Integral) and not isinstance(cell, bool):
        cell = str(int(cell))
    if column.also_json and isinstance(cell, list | dict):
        cell = json.dumps(cell, ensure_ascii=False, default=str) if cell else None
        if cell is None:
            return None
    if not isinstance(cell, str):
        raise _refuse(column, cell)
    if len(cell) > column.max_length:
        raise BadCell(f"{column.name} has {len(cell):,} characters; give at most {column.max_length:,}")
    if (column.required or column.name == "id") and _CONTROL.search(cell):
        raise BadCell(f"{column.name} is {shown(cell)}; take the control characters out")
    return _id(cell) if column.name == "id" else cell


def _id(cell: str) -> str:
    """The id as it is compared and written: two that look the same are the same."""
    if any(map(is_invisible, cell)):
        raise BadCell(f"id is {cell!a}; take out the signs that cannot be seen or that turn the writing round")
    if cell.lstrip().startswith(FORMULA_SIGNS):
        raise BadCell(f"id is {shown(cell)}, which a spreadsheet would take as a formula; begin with another sign")
    return unicodedata.normalize("NFC", cell)


def _yes_no(column: Column, cell: Any) -> bool:
    word = cell.strip().lower() if isinstance(cell, str) else cell
    if isinstance(word, bool):
        return word
    if isinstance(word, Real) and word in (0, 1):
        return bool(word)
    if isinstance(word, str) and word in _WORDS:
        return _WORDS[word]
    raise _refuse(column, cell)


def _number(column: Column, cell: Any) -> float:
    return float(_in_range(column, cell, _real(column, cell)))


def _whole(column: Column, cell: Any) -> int:
    number = _real(column, cell)
    if isinstance(number, float):
        if not number.is_integer():
            raise _refuse(column, cell)
        number = int(number)
    return int(_in_range(column, cell, number))


def _real(column: Column, cell: Any) -> int | float:
    """`cell` as a finite number; text is taken where it spells one. An int stays exact."""
    if isinstance(cell, str):
        cell = _spelled(column, cell.strip())
    if isinstance(cell, bool) or not isinstance(cell, Real | Decimal):
        raise _refuse(column, cell)
    if isinstance(cell, Integral):
        return int(cell)
    number = float(cell)
    if not math.isfinite(number):
        raise _refuse(column, number)
    return number


def _spelled(column: Column, text: str) -> int | float:
    if _WHOLE_NUMERAL.fullmatch(text):
        return int(text)
    if _NUMERAL.fullmatch(text) or _NOT_FINITE.fullmatch(text):
        return float(text)
    raise _refuse(column, text)


def _in_range(column: Column, cell: Any, number: int | float) -> int | float:
    assert column.minimum is not None, "a column of numbers has bounds"
    assert column.maximum is not None, "a column of numbers has bounds"
    if not column.minimum <= number <= column.maximum:
        raise _refuse(column, cell)
    return number


_CONVERTERS: dict[pa.DataType, Callable[[Column, Any], Value]] = {
    TEXT: _text,
    WHOLE: _whole,
    NUMBER: _number,
    YES_NO: _yes_no,
}
