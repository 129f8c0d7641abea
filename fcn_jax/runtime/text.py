"""Numbers and foreign strings as text."""

import math
from collections.abc import Mapping
from typing import Any

DASH = "\N{EN DASH}"
"""What stands where there is no number."""


def is_number(value: Any) -> bool:
    """True for a finite number; None, NaN and infinities are no scores."""
    return isinstance(value, int | float) and math.isfinite(value)


def number(value: Any, digits: int = 4, missing: str = DASH) -> str:
    """A score with fixed digits; a dash for what is absent (None or not finite)."""
    return f"{value:.{digits}f}" if is_number(value) else missing


def plain(value: Any, limit: int = 0) -> str:
    """A foreign string made safe to draw or print.

    Control characters (terminal escapes, line breaks, writing-direction marks) and undecodable
    bytes of file names become U+FFFD; with a limit, long text ends in an ellipsis.
    """
    text = "".join(c if c.isprintable() else "\ufffd" for c in str(value))
    return text[: limit - 1] + "…" if limit and len(text) > limit else text


def _shown(value: Any) -> str:
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else plain(value)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested mapping as (dotted name, text) lines, for a reader's eyes."""
    lines = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            lines += flatten(value, f"{name}.")
        else:
            lines.append((plain(name), _shown(value)))
    return lines


def duration(seconds: Any) -> str:
    """Seconds as a reader says them: 1.3 s, 42 s, 3 min 20 s, 2 h 5 min."""
    if not is_number(seconds):
        return DASH
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 and seconds != whole else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def count(number: int, noun: str) -> str:
    """`1 image`, `1,200 images`, `3 classes`."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"


def amount(size: int) -> str:
    """Bytes in words: 512 bytes, 4.2 kB, 911.1 MB, 8.6 GB."""
    if size < 1000:
        return f"{size} bytes"
    unit, name = next((u, n) for u, n in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if size >= u)
    return f"{size / unit:.1f} {name}"


def signed_numbers(*values: float) -> list[str]:
    """Numbers with a sign and digits enough for each: never `-0.000` for what is not zero.

    All get the same digits, four at least; what would need more than six is in powers of ten.

    >>> signed_numbers(0.0512, -0.01), signed_numbers(-0.000031, 0.0)
    (['+0.0512', '-0.0100'], ['-0.000031', '0'])
    """
    smallest = min((abs(v) for v in values if v), default=1.0)
    digits = max(4, 1 - math.floor(math.log10(smallest)))
    form = f"+.{digits}f" if digits <= 6 else "+.1e"
    return [format(value, form) if value else "0" for value in values]
