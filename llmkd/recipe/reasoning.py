"""Questions that a model answers in text of its own, and how its answers are graded."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from llmkd.recipe.base import RecipePart
from llmkd.recipe.data import DatasetFiles
from llmkd.recipe.evaluation_base import FileTask
from llmkd.recipe.teacher_data import Generation

QuestionColumn = Literal["question", "answer", "choices", "labels"]
Grader = Literal["math_verify", "number", "exact_match", "multiple_choice"]
TextMetric = Literal["f1", "rouge1", "rouge2", "rougeL", "bleu_4"]


class QuestionRows(DatasetFiles):
    """Rows of a question and its right answer, and of choices where there are any."""

    columns: dict[QuestionColumn, str] = Field(default_factory=dict)
    """What the data set calls its columns: `{question: problem, answer: final_ans}`. Where none is
    named, the usual names are looked for."""
    choices: list[str] | None = Field(default=None, min_length=2)
    """The choices of every row, where rows have none of their own: `[yes, no]`. Each is its own
    label."""


class SolvedExample(RecipePart):
    """A question with its answer, to be shown before others."""

    question: str = Field(min_length=1)
    """As a row's."""
    answer: str = Field(min_length=1)
    """All that is to be written, the reasoning included."""
    choices: list[str] = Field(default_factory=list)
    """As a row's."""


class Answers(Generation):
    """How answers are written."""

    temperature: float = Field(default=0.0, ge=0)
    """0 is greedy."""
    max_completion_length: int = Field(default=512, gt=0)
    """Tokens after which an answer is cut, which is counted; what it says by then is graded."""
    num_samples: int = Field(default=1, gt=0)
    """Answers to each question."""
    stop: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """Texts that end an answer and are no part of it."""


class ReasoningTask(FileTask):
    """Questions answered by generated text, each answer right or wrong.

    Metrics: `pass@1` is the share of right answers. Of several answers to each question, `pass@k` is
    the chance that one of k is right, `avg@n` the share of all n and `maj@n` the share of questions
    whose most frequent answer is right. `tokens` is the mean length of an answer, `truncated` the share
    that was cut, `unanswered` the share in which no answer was found.

    References:
        Chen et al. 2021, "Evaluating Large Language Models Trained on Code",
        https://arxiv.org/abs/2107.03374, equation 1.
    """

    kind: Literal["reasoning"]
    data: QuestionRows
    """The questions."""
    prompt: str = "{question}"
    """What is asked: `{question}` and `{choices}`, a line for each such as `(A) ice`, are put in."""
    system_prompt: str | None = None
    """Said before everything else."""
    apply_chat_template: bool | None = None
    """Ask in the tokenizer's chat format; null does so where it has one."""
    num_fewshot: int = Field(default=0, ge=0)
    """Solved examples shown before each question."""
    fewshot: QuestionRows | list[SolvedExample] | None = None
    """Where they come from: rows, drawn by the seed and the same for every question, or the first of
    a list. Null takes the task's own rows. None is ever the question itself."""
    grader: Grader
    """`number`: the last number, or the one that is marked as the answer. `math_verify`: formulas.
    `multiple_choice`: the label of a choice. `exact_match`: to the letter, but for case and white
    space."""
    generation: Answers = Field(default_factory=Answers)
    """How the model writes them: temperature, length, how many."""
    pass_at: list[Annotated[int, Field(gt=0)]] | None = Field(default=None, min_length=1)
    """The k of `pass@k`; null takes 1 and the number of samples."""
    metrics: list[TextMetric] = Field(default_factory=list)
    """Of the whole text against the reference as well, for summaries and the like."""

    @property
    def ks(self) -> list[int]:
        """The k of every `pass@k`, ascending."""
        return sorted(set(self.pass_at or [1, self.generation.num_samples]))

    def with_file(self, path: str, columns: Mapping[str, str]) -> dict[str, Any]:
        """As of every task that reads files; examples are no longer those of the data set."""
        content = super().with_file(path, columns)
        is_of_a_data_set = isinstance(self.fewshot, QuestionRows)
        return {**content, "fewshot": None} if is_of_a_data_set else content
