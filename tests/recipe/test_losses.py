import inspect

import pytest
from pydantic import ValidationError

from llmkd.losses.sinkhorn import PAPER_FACTOR, sinkhorn_divergence
from llmkd.recipe.losses import SinkhornPaperTerm, SinkhornTerm


def test_a_sinkhorn_terms_defaults_are_those_of_its_function():
    term = SinkhornTerm(kind="sinkhorn")
    parameters = inspect.signature(sinkhorn_divergence).parameters
    for name in ("epsilon", "max_iterations", "tolerance"):
        assert getattr(term, name) == parameters[name].default
    assert SinkhornPaperTerm(kind="sinkhorn_paper").factor == PAPER_FACTOR


@pytest.mark.parametrize(
    "field", ["temperature", "epsilon", "max_iterations", "tolerance", "max_rows", "top_k"]
)
def test_a_sinkhorn_terms_numbers_are_above_zero(field):
    with pytest.raises(ValidationError, match="greater than 0"):
        SinkhornTerm.model_validate({"kind": "sinkhorn", field: 0})


@pytest.mark.parametrize("field", ["temperature", "epsilon", "max_iterations", "tolerance"])
def test_the_papers_constants_cannot_be_changed(field):
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        SinkhornPaperTerm.model_validate({"kind": "sinkhorn_paper", field: 1})


@pytest.mark.parametrize("kind", ["sinkhorn", "sinkhorn_paper"])
def test_an_l1_cost_is_not_scaled_by_temperature_squared(kind):
    term = SinkhornTerm if kind == "sinkhorn" else SinkhornPaperTerm
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        term.model_validate({"kind": kind, "temperature_scaling": "squared"})
