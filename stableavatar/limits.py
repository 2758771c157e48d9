"""How much the files of one row may ask of a machine, and from where they may come."""

from dataclasses import dataclass

# What a row may name. Not http: anybody on the way can change it.
INPUT_SCHEMES = ("file", "s3", "gs", "gcs", "az", "abfs", "abfss", "https")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is more is a mistake or an attack, and is refused before it costs anything."""

    max_portrait_pixels: int = 80_000_000  # one decoded picture then needs at most 320 MB
    max_sound_s: float = 4 * 3600.0  # seconds of the medium up to the end of what a row uses
    max_file_bytes: int = 20_000_000_000  # of one file
    input_schemes: tuple[str, ...] = INPUT_SCHEMES
    inputs: tuple[str, ...] = ()  # folders or URIs under which all files of rows must lie; none: anywhere
