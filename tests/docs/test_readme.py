"""The README's tables, held against what there is."""

from pathlib import Path
from typing import get_args

import pytest

from llmkd.recipe.losses import Loss

README = (Path(__file__).parents[2] / "README.md").read_text()
KINDS = [get_args(term.model_fields["kind"].annotation)[0] for term in get_args(get_args(Loss)[0])]


@pytest.mark.parametrize("kind", KINDS)
def test_every_loss_has_its_row(kind):
    (table,) = [part for part in README.split("\n## ") if part.startswith("Losses\n")]
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert any(f"`{kind}`" in row.split("|")[1] for row in rows)
