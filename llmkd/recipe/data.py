"""Where examples come from: data sets, mixtures of them, or procedural tasks without files."""

from typing import Annotated, Literal

from pydantic import Field, Tag

from llmkd.recipe.base import RecipePart, kind_or
from llmkd.recipe.rationale import Rationale

Column = Literal["text", "prompt", "completion", "messages", "rationale"]
LabelledColumn = Literal["text", "text_pair", "label"]
Steps = Literal["completion", "rationale"]
Split = Literal["train", "unlabelled", "validation", "test"]


class SequenceLengths(RecipePart):
    """How long token sequences are, and how they are read."""

    max_length: int = Field(default=1024, gt=1)
    """Longest sequence in tokens; longer ones are cut at the end, counted and reported. Of a model
    with an encoder and a decoder, what each of the two reads."""
    packing: bool = False
    """Put several examples into one sequence of at most `max_length` tokens (best fit); none sees
    another, and the loss is that of the examples one by one. For causal models."""
    streaming: bool = False
    """Read while training, without counting or caching: for data that is too large to prepare.
    Needs `trainer.max_steps`."""


class Sequences(SequenceLengths):
    """How rows become token sequences."""

    append_eos: bool = True
    """End every example with the tokenizer's end-of-text token. `messages` end as their chat
    template says."""
    assistant_only_loss: bool = True
    """Of `messages`, train on what the assistant says; false trains on every token."""
    chat_template: str | None = None
    """A Jinja file for `messages`, also saved with the student; null takes the tokenizer's own."""
    rationale: Rationale | None = None
    """Learn from a `rationale` that each row has beside `prompt` and `completion`: as a second task,
    or before the completion; null reads none."""


class DatasetFiles(RecipePart):
    """Rows of a file, a folder, a hub data set, or what an earlier stage wrote."""

    dataset_name: str = Field(min_length=1)
    """A JSONL, Parquet or .txt file, a folder of them, a hub name, or `stage:NAME`."""
    dataset_config: str | None = None
    """The hub data set's configuration, where it has several."""
    dataset_split: str = "train"
    """The split to read. A single file is its own `train` split. Of what a stage wrote, split X is
    `X.jsonl`, and `train` is `data.jsonl`."""
    num_examples: int | None = Field(default=None, gt=0)
    """Read only the first so many rows; null reads all."""


class DatasetRows(DatasetFiles):
    """Rows of a file, a folder, a hub data set, or what an earlier stage wrote.

    A row has a `text` field (every token is trained on), `prompt` and `completion` (only the
    completion is), or `messages` of `role` and `content`. A model with an encoder and a decoder
    takes `prompt` and `completion`.
    """

    kind: Literal["dataset"] = "dataset"
    columns: dict[Column, str] = Field(default_factory=dict)
    """What the data set calls its columns: `{prompt: question, completion: answer}`."""
    prompt_prefix: str = ""
    """Stands before every `prompt`, to name the task: `"predict: "`."""


class DatasetSource(Sequences, DatasetRows):
    """A data set to train on."""


class PromptRows(DatasetRows):
    """Rows that a teacher answers: each has `messages` of `role` and `content`, or a `prompt`.

    Where messages end with the assistant's turn, that is the data set's own answer and is left out.
    """

    apply_chat_template: bool = False
    """Put each `prompt` in the teacher's chat template, as a user's turn; `messages` always are."""
    system_prompt: str | None = Field(default=None, min_length=1)
    """A system message before each conversation that does not begin with one of its own."""
    prompt_file: str | None = Field(default=None, min_length=1)
    """A text file with the prompt, in which `{column}` stands for the row's column of that name; the
    rows then need no `prompt`. A path, or one of the shipped `prompts/NAME.txt`."""
    keep_columns: list[str] = Field(default_factory=list)
    """Columns of the data set that go along into `data.jsonl` as they are: gold answers, labels."""
    chat_template: str | None = None
    """A Jinja file in place of the teacher's own chat template, also saved with students that train
    on the store's rows."""


class StoreRows(SequenceLengths):
    """What a teacher wrote or read, token by token as it is in the teacher's store.

    Completions that were cut by length are left out: they teach no ending.
    """

    kind: Literal["store"]
    path: str = Field(min_length=1)
    """A store's folder, or `stage:NAME` for what an earlier stage captured."""
    num_examples: int | None = Field(default=None, gt=0)
    """Read only the first so many rows; null reads all."""


class TextSource(DatasetRows):
    """Rows to be scored."""

    max_length: int = Field(default=1024, gt=1)
    """Most tokens that the model reads at once; an encoder and a decoder each. A longer text is read
    in several windows; a longer completion is cut, which is reported."""
    append_eos: bool = True
    """Score the end-of-text token after a completion too; false where it was not trained on."""
    assistant_only_loss: bool = True
    """Of `messages`, score what the assistant says; false scores every token."""


class AdditionTask(RecipePart):
    """Sums of two numbers with the carries written out, from the last digit to the first.

    A row's `answer` is the sum alone. Generated from the seed: the splits `train`, `unlabelled`, `validation` and `test` never share
    a sum.
    """

    kind: Literal["task"]
    task: Literal["addition"] = "addition"
    """Which task."""
    digits: int = Field(default=3, ge=1, le=9)
    """Digits of each summand; shorter numbers are padded with leading zeros."""
    steps: Steps = "completion"
    """Where the carries are written out: `completion` has them before the answer; `rationale` makes
    the answer alone the completion, and keeps them in a column of that name."""
    num_examples: int = Field(gt=0)
    """How many different sums to make; refused where the split has fewer."""
    split: Split = "train"
    """`unlabelled` has other sums than `train`: prompts for a teacher to answer."""
    prompt_prefix: str = ""
    """Stands before every prompt, to name the task; in characters that sums are written in, such as
    `;`."""


class TrainedAddition(AdditionTask):
    """Sums to be trained on."""

    rationale: Rationale | None = None
    """Learn from the sums' carries as rationales: as a second task, or before the completion; null
    reads none. Needs `steps: rationale`."""


class PromptTask(AdditionTask):
    """A procedural task that a teacher answers."""

    keep_columns: list[str] = Field(default_factory=list)
    """Columns of the task that go along into `data.jsonl` as they are: `answer`, and `rationale` with
    `steps: rationale`."""


class IntentTask(RecipePart):
    """Short requests to an assistant, to be told apart by what they ask for: 12 labels.

    Generated from the seed. Words get lost at random, so that some requests could be of several
    labels and none is always right; the splits never share a text.
    """

    kind: Literal["task"]
    task: Literal["intents"]
    """Which task."""
    num_examples: int = Field(gt=0)
    """How many different requests to make; refused where the split has fewer."""
    split: Split = "train"
    """`unlabelled` has other requests than `train`."""


class NamedIntentTask(RecipePart):
    """The requests of `intents` for language models, which answer a request by its label's name.

    A row's `answer` is that name too. The seed gives the same requests as it gives `intents`, in the
    same splits.
    """

    kind: Literal["task"]
    task: Literal["named_intents"]
    """Which task."""
    num_examples: int = Field(gt=0)
    """How many different requests to make; refused where the split has fewer."""
    split: Split = "train"
    """`unlabelled` has other requests than `train`: prompts for a teacher to label."""


class NamedIntentPrompts(NamedIntentTask):
    """Requests that a teacher labels."""

    keep_columns: list[str] = Field(default_factory=list)
    """Columns of the task that go along into `data.jsonl` as they are: `answer`."""


class LabelledRows(DatasetFiles):
    """Rows of a `text`, or a `text` and a `text_pair`, each with a `label`: for a classifier.

    A label is text; an integer is taken for its digits, true and false for those words. Of a
    regression it is a number.
    """

    kind: Literal["classification"]
    columns: dict[LabelledColumn, str] = Field(default_factory=dict)
    """What the data set calls its columns: `{text: sentence, label: intent}`."""
    problem_type: Literal["single_label_classification", "regression"] = (
        "single_label_classification"
    )
    """As transformers calls it: `regression` where each label is a number, such as STS-B's scores,
    and the model has one output."""
    labels: list[str] | None = Field(default=None, min_length=2)
    """All labels, in the order of the model's outputs. Default: the teacher's; else the pretrained
    student's where they have all labels of the rows; else those of the rows, sorted. Where they are
    written and none is a number, rows may name a label by its number in this order, from 0."""
    max_length: int = Field(default=512, gt=1)
    """Longest sequence in tokens; longer ones are cut, counted and reported."""


class MixedDataset(DatasetRows):
    """A data set in a mixture."""

    weight: float = Field(default=1.0, gt=0)
    """Its share of the mixture's rows is its weight over the sum of all weights."""


class MixedTask(AdditionTask):
    """A procedural task in a mixture."""

    weight: float = Field(default=1.0, gt=0)
    """Its share of the mixture's rows is its weight over the sum of all weights."""


class Mixture(Sequences):
    """Rows of several sources, in the shares that their weights say."""

    kind: Literal["mixture"]
    sources: list[
        Annotated[
            Annotated[MixedTask, Tag("task")] | Annotated[MixedDataset, Tag("dataset")],
            kind_or("dataset"),
        ]
    ] = Field(min_length=2)
    """What is mixed."""
    num_examples: int | None = Field(default=None, gt=0)
    """Rows in all; a source with too few is repeated, which is reported. Null takes as many as
    there are without repeating any."""


PromptsOfTask = Annotated[
    Annotated[PromptTask, Tag("addition")] | Annotated[NamedIntentPrompts, Tag("named_intents")],
    kind_or("addition", "task"),
]
Prompts = Annotated[
    Annotated[PromptsOfTask, Tag("task")] | Annotated[PromptRows, Tag("dataset")],
    kind_or("dataset"),
]
CompletionTask = AdditionTask | NamedIntentTask
"""For language models: its rows have a `prompt` and a `completion`."""
Task = CompletionTask | IntentTask
Classification = IntentTask | LabelledRows
"""What a classifier is trained on, and measured on."""


def is_regression(source: object) -> bool:
    """Whether rows have a number as their label, and not one of several names."""
    return isinstance(source, LabelledRows) and source.problem_type == "regression"


AnyTask = Annotated[
    Annotated[TrainedAddition, Tag("addition")]
    | Annotated[IntentTask, Tag("intents")]
    | Annotated[NamedIntentTask, Tag("named_intents")],
    kind_or("addition", "task"),
]
DataSource = Annotated[
    Annotated[AnyTask, Tag("task")]
    | Annotated[LabelledRows, Tag("classification")]
    | Annotated[DatasetSource, Tag("dataset")]
    | Annotated[Mixture, Tag("mixture")]
    | Annotated[StoreRows, Tag("store")],
    kind_or("dataset"),
]
