"""Names for people: of paths, the parts at their end that tell them apart."""

from collections.abc import Iterable
from pathlib import PurePath


def short_names(names: Iterable[str]) -> dict[str, str]:
    """From each name to the fewest parts at its end by which it differs from the others.

    Example:
        >>> short_names(["/models/a/hf", "/models/b/hf", "student"])
        {'/models/a/hf': 'a/hf', '/models/b/hf': 'b/hf', 'student': 'student'}
    """
    whole = {name: PurePath(name).parts or (name,) for name in names}
    short: dict[str, str] = {}
    for name, parts in whole.items():
        others = [other for key, other in whole.items() if key != name]
        count = next(
            (n for n in range(1, len(parts)) if all(o[-n:] != parts[-n:] for o in others)),
            len(parts),
        )
        short[name] = str(PurePath(*parts[-count:])) if count < len(parts) else name
    return short
