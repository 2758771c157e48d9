"""Words of others, made fit for a message."""

MAX_SHOWN = 200  # characters


def one_line(text: str) -> str:
    """`text` on one line and without control characters, which a terminal would obey; cut if it is long.

    What decoders say may quote the file they read.
    """
    shown = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return shown if len(shown) <= MAX_SHOWN else f"{shown[: MAX_SHOWN - 3]}..."
