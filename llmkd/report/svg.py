"""SVG, element by element; text and attributes are escaped."""

from collections.abc import Iterable

from markupsafe import Markup, escape


def element(name: str, *content: str, **attributes: str | float | None) -> Markup:
    """`<name attributes>content</name>`; `class_` is class, and `_` in a name a hyphen.

    Args:
        name: Of the element.
        content: Markup as it is, text escaped.
        attributes: Numbers are written with one decimal; None leaves the attribute out.
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _value(value))
        for key, value in attributes.items()
        if value is not None
    )
    inside = Markup("").join(map(escape, content))
    return Markup("<{name}{written}>{inside}</{name}>").format(
        name=name, written=written, inside=inside
    )


def path(points: Iterable[tuple[float, float]], *, is_closed: bool = False) -> str:
    """The `d` of a path through points."""
    text = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f"M{text}{'Z' * is_closed}"


def _value(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")
