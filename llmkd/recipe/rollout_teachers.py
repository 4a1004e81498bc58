"""Teachers of a student's own rollouts, as a recipe names them. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field, Tag

from llmkd.recipe.base import RecipePart, kind_or
from llmkd.recipe.models import InProcessTeacher, ServedModel


class RolloutModel(InProcessTeacher):
    """A frozen teacher beside the student, which reads its rollouts."""

    offload: Literal["cpu"] | None = None
    """`cpu`: its weights are in the accelerator's memory only while rollouts are scored; null keeps
    them there. With `estimator: full_vocabulary` they are copied there for every micro-batch."""


class RolloutServer(ServedModel):
    """A teacher behind a running `vllm serve`, asked what it makes of the tokens that were drawn.

    It gives log-probabilities at temperature 1 and of these tokens alone: for `trainer.temperature: 1`
    and every estimator but `full_vocabulary`. A padded head is a teacher's own affair: what rows
    beyond its tokenizer have of the mass is taken off as far as the server tells of it.
    """


OneRolloutTeacher = Annotated[
    Annotated[RolloutModel, Tag("in_process")] | Annotated[RolloutServer, Tag("server")],
    kind_or("in_process"),
]


class RoutedTeacher(RecipePart):
    """Several teachers, each asked about the rows of the data that name it."""

    kind: Literal["routed"]
    column: str = Field(min_length=1)
    """The column of the data that names the teacher of a row."""
    teachers: dict[str, OneRolloutTeacher] = Field(min_length=1)
    """From what the column says to the teacher; all have the student's tokenizer."""


RolloutTeacher = Annotated[
    Annotated[RolloutModel, Tag("in_process")]
    | Annotated[RolloutServer, Tag("server")]
    | Annotated[RoutedTeacher, Tag("routed")],
    kind_or("in_process"),
]


def named_teachers(
    teacher: RolloutModel | RolloutServer | RoutedTeacher, key: str = "teacher"
) -> dict[str, RolloutModel | RolloutServer]:
    """The teachers themselves, by where a recipe has them: `teacher.teachers.math`."""
    if not isinstance(teacher, RoutedTeacher):
        return {key: teacher}
    return {f"{key}.teachers.{name}": each for name, each in teacher.teachers.items()}


def server_refusals(key: str, *, temperature: float, full_vocabulary: bool) -> list[str]:
    """Why a server cannot be the teacher of such a training, each with what to write instead.

    Args:
        key: Where a recipe has the teacher.
        temperature: That rollouts are sampled at.
        full_vocabulary: Whether the estimator takes whole distributions.
    """
    problems = list[str]()
    if temperature != 1:
        problems.append(
            f"trainer.temperature: {temperature:g} is not 1, at which a server gives "
            f"log-probabilities; write temperature: 1, or {key}.kind: in_process"
        )
    if full_vocabulary:
        problems.append(
            "objective.estimator: full_vocabulary takes the teacher's whole distributions, and a server "
            f"tells of the drawn tokens; write k2, or {key}.kind: in_process"
        )
    return problems
