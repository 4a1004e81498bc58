"""The steps of a stage that curates."""

import os
import shutil
from typing import Annotated, Literal

from pydantic import Field

from llmkd.recipe.base import RecipePart
from llmkd.recipe.data import Column, DatasetFiles
from llmkd.recipe.reasoning import Grader, QuestionRows

Share = Annotated[float, Field(ge=0, le=1)]


class CuratedRows(DatasetFiles):
    """Rows of prompts with answers, or of plain text; all their columns come along."""

    kind: Literal["dataset"] = "dataset"
    columns: dict[Column, str] = Field(default_factory=dict)
    """What the data set calls its columns: `{prompt: question, completion: answer}`. They get the names
    on the left."""


class AnswerStep(RecipePart):
    """What looks for the answer in a completion."""

    grader: Grader
    """How answers are found and compared: `number`, `math_verify`, `multiple_choice` or
    `exact_match`."""
    answer_marker: str | None = Field(default=None, min_length=1)
    """Text before the answer, such as `#`: only what follows the last one is looked at, and a
    completion without it has no answer."""
    labels: list[str] | None = Field(default=None, min_length=2)
    """All answers that there are, such as a classifier's labels: any other one is no answer. With
    `multiple_choice` they are the choices."""
    choices_column: str = "choices"
    """Of `multiple_choice` without `labels`: the column with the choices, a list of texts, or a
    mapping of `text` and `label`."""
    labels_column: str | None = None
    """The column with a label for each choice; null takes A, B, C and so on."""


class PromptStep(RecipePart):
    """Writes each row's prompt anew, from a file with places for the row's columns."""

    kind: Literal["prompt"]
    prompt_file: str = Field(min_length=1)
    """A text file with the prompt, in which `{column}` stands for the row's column of that name. A
    path, or one of the shipped `prompts/NAME.txt`."""


class VerifyStep(AnswerStep):
    """Keeps the rows whose answer is that of a reference."""

    kind: Literal["verify"]
    reference: str = "answer"
    """The column with the right answer, or with a text that marks it."""
    keep: Literal["right", "all"] = "right"
    """`all` keeps every row and says which are right in a column `is_right`."""


class VerifyCommandStep(RecipePart):
    """Keeps the rows that a program of yours accepts; runs with `--allow-code` only.

    It is started once per row, which it reads from its input as JSON, and accepts by exit status 0.
    """

    kind: Literal["verify_command"]
    command: list[str] = Field(min_length=1)
    """The program and its arguments: `[python, check.py]`. No shell reads them."""
    timeout_s: float = Field(default=10.0, gt=0)
    """Seconds after which the program and all that it started are killed, and the row dropped."""
    memory_mib: int = Field(default=1024, gt=0)
    """Address space of each of its processes."""

    @property
    def files(self) -> dict[str, str]:
        """The paths of the program and of the arguments that are files, each by how it is written."""
        program, *arguments = self.command
        paths = {argument: argument for argument in arguments} | {
            program: shutil.which(program) or program
        }
        # Path.is_file raises for what is longer than a name, such as code.
        return {written: path for written, path in paths.items() if os.path.isfile(path)}  # noqa: PTH113


class VoteStep(AnswerStep):
    """Keeps what agrees with the majority of the answers to its prompt.

    References:
        Wang et al. 2022, "Self-Consistency Improves Chain of Thought Reasoning in Language Models",
        https://arxiv.org/abs/2203.11171.
    """

    kind: Literal["vote"]
    keep: Literal["agreeing", "one"] = "agreeing"
    """`agreeing`: all completions with the majority's answer. `one`: the first of them."""
    min_votes: int = Field(default=1, gt=0)
    """Completions that the majority's answer needs."""
    min_share: Share = 0.0
    """Share of the prompt's completions, those without an answer included, that it needs."""
    ties: Literal["drop", "first"] = "drop"
    """Of answers with equally many votes, `first` takes the one that came first, of several
    teachers the first one's. `drop` leaves the prompt undecided."""
    answer_column: str | None = Field(default=None, min_length=1)
    """A column to write the majority's answer into."""
    undecided: Literal["drop", "keep"] = "drop"
    """`keep` writes the prompts that are undecided, each once and without an answer, as split
    `undecided` of the stage's data, for another teacher to answer."""


class LengthStep(RecipePart):
    """Keeps the rows of a given length."""

    kind: Literal["length"]
    unit: Literal["words", "characters"] = "words"
    """What is counted; words are what white space parts."""
    of: Literal["completion", "prompt"] = "completion"
    """Of rows of plain text, their `text` is the completion."""
    min_length: int = Field(default=1, ge=0)
    """Shorter rows are dropped."""
    max_length: int | None = Field(default=None, gt=0)
    """Longer rows are dropped; null keeps them."""


class RepetitionStep(RecipePart):
    """Drops completions that go round in circles."""

    kind: Literal["repetition"]
    unit: Literal["words", "characters"] = "words"
    """What an n-gram is made of: `characters` for texts without spaces."""
    ngram: int = Field(default=8, gt=0)
    """How many of them."""
    max_share: Share = 0.5
    """Completions of which a larger share is within n-grams that occur twice or more are dropped."""


class DuplicatesStep(RecipePart):
    """Keeps the first of rows that are equal, or nearly so."""

    kind: Literal["duplicates"]
    of: Literal["row", "prompt", "completion"] = "row"
    """What is compared: question and answer, or one of them. All answers to the first of equal
    prompts stay."""
    match: Literal["exact", "near"] = "exact"
    """`near`: of texts whose sets of word n-grams have a large Jaccard similarity, which MinHash
    estimates."""
    threshold: float = Field(default=0.8, gt=0, le=1)
    """Of `near`: the least similarity of duplicates."""
    ngram: int = Field(default=5, gt=0)
    """Of `near`: words of an n-gram. Shorter texts are one n-gram."""

    @property
    def bytes_per_row(self) -> int:
        """How much the index of what was seen grows with each row that stays, about.

        Of peak memory, measured with 200,000 rows at the default threshold: 102 and 3,077
        (tests/benchmarks/results/curation_cpu.json).
        """
        return 100 if self.match == "exact" else 3000


class ContaminationStep(RecipePart):
    """Drops rows that share a word n-gram with a question of an evaluation.

    References:
        Brown et al. 2020, "Language Models are Few-Shot Learners",
        https://arxiv.org/abs/2005.14165, appendix C.
    """

    kind: Literal["contamination"]
    against: list[QuestionRows] = Field(default_factory=list)
    """Data sets with the questions; their `columns` may say what the `question` is called."""
    suites: list[str] = Field(default_factory=list)
    """Shipped suites' names, or suites' YAML files, whose tasks have data sets."""
    ngram: int = Field(default=13, gt=0)
    """Words of an n-gram. Questions with fewer are not looked for, which is counted."""


class RewriteStep(AnswerStep):
    """Takes a rewritten answer in place of the data set's own where the two agree.

    References:
        Yang et al. 2024, "Self-Distillation Bridges Distribution Gap in Language Model Fine-Tuning",
        https://arxiv.org/abs/2402.13669.
        Thangarasa et al. 2024, "Self-Data Distillation for Recovering Quality in Pruned Large
        Language Models", https://arxiv.org/abs/2410.09982.
    """

    kind: Literal["rewrite_if_correct"]
    originals: CuratedRows
    """The data set's own rows, in the order of the prompts that asked for the rewrites: the rewrite of
    row 7, from 0, has `number` 7. Its prompts are the ones that come out."""
    unanswered: Literal["original", "rewrite", "drop"] = "original"
    """What becomes of an original in which no answer is found, so that nothing can be compared."""


class SelectStep(RecipePart):
    """Keeps some of the prompts: at random, or by how hard they are."""

    kind: Literal["select"]
    fraction: float | None = Field(default=None, gt=0, lt=1)
    """Keep each prompt, with all its rows, with this probability; which ones follows from the seed."""
    pass_rate: list[Share] | None = Field(default=None, min_length=2, max_length=2)
    """Keep the prompts whose share of right completions is from the first to the second of these,
    by the column `is_right` that `verify` with `keep: all` writes."""


class ExtractStep(AnswerStep):
    """Writes the answer of each completion into a column, as for a classifier's label."""

    kind: Literal["extract"]
    column: str = Field(default="label", min_length=1)
    """The column's name."""


CurationStep = Annotated[
    PromptStep
    | VerifyStep
    | VerifyCommandStep
    | VoteStep
    | LengthStep
    | RepetitionStep
    | DuplicatesStep
    | ContaminationStep
    | RewriteStep
    | SelectStep
    | ExtractStep,
    Field(discriminator="kind"),
]
