"""A stage that curates: rows go through steps, in order, and what is left is its data set."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from llmkd.recipe.base import RecipePart
from llmkd.recipe.curation_steps import (
    ContaminationStep,
    CuratedRows,
    CurationStep,
)


class Concatenation(RecipePart):
    """Data sets one after another, whatever their prompts are. Numbers of prompts are left out."""

    kind: Literal["concatenation"]
    sources: list[CuratedRows] = Field(min_length=2)
    """What is joined, in this order."""


class WeightedRows(CuratedRows):
    """A data set in a mixture."""

    weight: float = Field(default=1.0, gt=0)
    """Its share of the mixture's rows is its weight over the sum of all weights."""


class RowsMixture(RecipePart):
    """Data sets in the shares that their weights say; answers to one prompt stay together.

    Numbers of prompts are left out.
    """

    kind: Literal["mixture"]
    sources: list[WeightedRows] = Field(min_length=2)
    """What is mixed."""
    num_examples: int | None = Field(default=None, gt=0)
    """Rows in all; a source with too few is repeated. Null takes as many as there are without
    repeating any."""


def _named(value: Any) -> Any:
    """A bare name stands for the data set of that name."""
    return {"dataset_name": value} if isinstance(value, str) else value


def _form(value: Any) -> str:
    if isinstance(value, list):
        return "several"
    return (
        value.get("kind", "dataset")
        if isinstance(value, dict)
        else getattr(value, "kind", "dataset")
    )


# Errors name it.
_form.__name__ = "kind"
Named = Annotated[CuratedRows, BeforeValidator(_named, json_schema_input_type=str | CuratedRows)]
CurationSource = Annotated[
    Annotated[CuratedRows, Tag("dataset")]
    | Annotated[Concatenation, Tag("concatenation")]
    | Annotated[RowsMixture, Tag("mixture")]
    | Annotated[list[Named], Field(min_length=1), Tag("several")],
    Discriminator(_form),
    BeforeValidator(
        _named,
        json_schema_input_type=str
        | CuratedRows
        | Concatenation
        | RowsMixture
        | list[str | CuratedRows],
    ),
]


class CurateStage(RecipePart):
    """Filters, compares and rewrites rows, step by step. Product: a data set."""

    kind: Literal["curate"]
    data: CurationSource
    """What is curated: `stage:NAME`, the name of a data set, or a mapping with its `dataset_name`. A
    list of several are answers of several teachers to the same prompts, put together by their
    `number`; without one they follow each other."""
    steps: list[CurationStep] = Field(default_factory=list)
    """What happens to the rows, in this order; without any, data sets are only put together."""

    @property
    def suites(self) -> list[str]:
        """The names or paths of all suites whose questions are looked for."""
        steps = (step for step in self.steps if isinstance(step, ContaminationStep))
        return [name for step in steps for name in step.suites]
