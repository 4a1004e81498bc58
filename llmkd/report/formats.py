"""Numbers as people read them."""

import math
from datetime import datetime

from llmkd.evaluation.metric_names import is_share


def number(value: float | None, *, sign: str = "") -> str:
    """Four digits at most, thousands set apart: `12,345`, `3.142`, `0.00012`."""
    if value is None or not math.isfinite(value):
        return "not finite"
    if value == int(value) and abs(value) < 1e15:
        return f"{value:{sign},.0f}"
    if 1000 <= abs(value) < 1e9:
        return f"{value:{sign},.0f}"
    return _exponent(f"{value:{sign}.4g}")


def measured(value: float, metric: str) -> str:
    """A metric's value, a share in percent: `98.2 %`, `4.547`."""
    if not is_share(metric):
        return number(value)
    return f"{100 * value:.1f} %" if math.isfinite(value) else "not finite"


def difference(value: float, metric: str) -> str:
    """A difference of two values, of shares in percentage points: `+45.0 points`, `-2.4`."""
    if not is_share(metric):
        return number(value, sign="+")
    return f"{100 * value:+.1f} points" if math.isfinite(value) else "not finite"


def bounds(low: float, high: float, metric: str, *, sign: str = "") -> str:
    """An interval in the unit of `measured`: `[97.0, 99.2]`."""
    if not is_share(metric):
        return f"[{number(low, sign=sign)}, {number(high, sign=sign)}]"
    return "[{}, {}]".format(*(_bare(100 * x, sign) for x in (low, high)))


def tick(value: float) -> str:
    """As short as can be: `20k`, `0.5`, `1e-5`."""
    if value == 0:
        return "0"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size <= abs(value) < 1000 * size:
            return f"{value / size:.4g}{letter}"
    if 1e-3 <= abs(value) < 1e3:
        return f"{value:.4g}"
    return _exponent(f"{value:.3g}")


def duration(seconds: float | None) -> str:
    """`42 s`, `3 min 5 s`, `2 h 10 min`; a dash where it is not known."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def moment(iso: str) -> str:
    """An ISO date and time to the minute: `2026-11-21 09:16+00:00`; other text as it is."""
    try:
        return datetime.fromisoformat(iso).isoformat(sep=" ", timespec="minutes")
    except ValueError:
        return iso


def shortened(name: str, length: int) -> str:
    """A long name with its middle left out: both ends of a path tell models apart."""
    if len(name) <= length:
        return name
    head = (length - 1) // 3
    return f"{name[:head]}…{name[-(length - 1 - head) :]}"


def _bare(value: float, sign: str) -> str:
    return f"{value:{sign}.1f}" if math.isfinite(value) else "not finite"


def _exponent(text: str) -> str:
    """1e-05 as 1e-5."""
    mantissa, mark, exponent = text.partition("e")
    return f"{mantissa}{mark}{int(exponent)}" if mark else text
