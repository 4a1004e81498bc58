"""From the recipe to live objects: the only file that knows every kind."""

from typing import assert_never

from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from llmkd.data.chat import read_chat_template
from llmkd.data.tasks import build_tokenizer
from llmkd.errors import InputError
from llmkd.models.adapters import attach
from llmkd.models.classifiers import head_config, load_student_classifier
from llmkd.models.load import build_from_scratch, load_model, load_tokenizer, tokenizer_of
from llmkd.recipe.data import Sequences, StoreRows, Task
from llmkd.recipe.models import (
    InProcessTeacher,
    PretrainedStudent,
    ScratchStudent,
    ServerTeacher,
    StoreTeacher,
)
from llmkd.recipe.schema import TrainStage
from llmkd.teacher_data.places import is_of_chats, tokenizer_folder


def build_tokenizer_for(stage: TrainStage) -> PreTrainedTokenizerBase:
    """The student's tokenizer: its own, or the teacher's, or the task's.

    It has the chat template of the recipe, or the one that a store's prompts are written in.
    """
    tokenizer = _build_tokenizer(stage)
    if isinstance(stage.data, Sequences) and stage.data.chat_template is not None:
        tokenizer.chat_template = read_chat_template(stage.data.chat_template)
    if isinstance(stage.data, StoreRows) and is_of_chats(stage.data.path):
        # What it is trained on is what it has to be asked in.
        own = load_tokenizer(str(tokenizer_folder(stage.data.path)))
        tokenizer.chat_template = own.chat_template
    return tokenizer


def _build_tokenizer(stage: TrainStage) -> PreTrainedTokenizerBase:
    student, teacher = stage.student, stage.teacher
    if isinstance(student, PretrainedStudent):
        return tokenizer_of(student)
    if student.tokenizer_name_or_path is not None:
        return load_tokenizer(student.tokenizer_name_or_path)
    match teacher:
        case InProcessTeacher() | ServerTeacher():
            return tokenizer_of(teacher)
        case StoreTeacher():
            return load_tokenizer(str(tokenizer_folder(teacher.path)))
        case None:
            pass
        case unknown:
            assert_never(unknown)
    if isinstance(stage.data, Task):
        return build_tokenizer(stage.data)
    raise InputError(
        "student: a student from scratch needs a tokenizer; write student.tokenizer_name_or_path"
    )


def build_student(
    stage: TrainStage, tokenizer: PreTrainedTokenizerBase, labels: list[str] | None = None
) -> PreTrainedModel:
    """The student before training, with its adapters; draws on torch's global random state.

    Args:
        stage: What the recipe says.
        tokenizer: The student's.
        labels: Of a classifier's outputs; None makes a language model.
    """
    match stage.student:
        case ScratchStudent() as source if labels is not None:
            auto = AutoModelForSequenceClassification
            return build_from_scratch(source, tokenizer, auto=auto, **head_config(labels))
        case ScratchStudent() as source:
            return build_from_scratch(source, tokenizer)
        case PretrainedStudent() as source:
            new_parts: list[str] = []
            if labels is None:
                model = load_model(source)
            else:
                model, new_parts = load_student_classifier(source, labels)
            # peft wraps the model and passes everything through to it.
            return model if source.lora is None else attach(model, source.lora, new_parts)  # pyright: ignore[reportReturnType]
        case unknown:
            assert_never(unknown)
