"""Colours: one CSS class per model, by its role, the same on the whole page."""

from collections.abc import Mapping

from llmkd.report.roles import Role

NUM_SHADES = 3
"""Per role; more models of one role share shades, in turn."""


def model_colors(roles: Mapping[str, Role]) -> dict[str, str]:
    """`student-0`, `student-1`, `twin-0`, ... for every model; the style sheet knows the colours."""
    seen: dict[Role, int] = {}
    colors = {}
    for model, role in roles.items():
        shade = seen.get(role, 0)
        seen[role] = shade + 1
        colors[model] = f"{role}-{shade % NUM_SHADES}"
    return colors
