"""The parts of a training of a sequence classifier."""

from transformers import PreTrainedTokenizerBase, TrainingArguments

from llmkd.build import build_student
from llmkd.data.classification import (
    LabelCollator,
    labelled_rows,
    labels_of,
    max_length_of,
    prepare_labelled,
)
from llmkd.data.labels import chosen_labels, given_labels, label_ids, one_output
from llmkd.data.sources import Row
from llmkd.models.classifiers import fit_to, labels_in, load_classifier
from llmkd.models.load import tokenizer_of
from llmkd.models.vocabulary import check_same_tokens
from llmkd.recipe.data import Classification, is_regression
from llmkd.recipe.models import InProcessTeacher as TeacherSource
from llmkd.recipe.models import PretrainedStudent
from llmkd.recipe.schema import TrainStage
from llmkd.teachers.in_process import InProcessTeacher
from llmkd.training.parts import Parts
from llmkd.training.sharding import place
from llmkd.training.teachers import teacher_here


def build_classifiers(
    stage: TrainStage,
    tokenizer: PreTrainedTokenizerBase,
    arguments: TrainingArguments,
    *,
    seed: int,
) -> Parts:
    """Classifiers and labelled data.

    Args:
        stage: With `data` of classification.
        tokenizer: The student's.
        arguments: Of the training.
        seed: Decides what a procedural task makes.

    Raises:
        InputError: Models, tokenizers, labels or rows that do not fit each other.
    """
    source = stage.data
    assert isinstance(source, Classification)
    with arguments.main_process_first(desc="read"):
        rows = labelled_rows(source, seed=seed)
    labels = stage_labels(stage, rows)
    student = build_student(stage, tokenizer, labels)
    place(student, arguments)
    fit_to(student, tokenizer, "student", is_regression=is_regression(source))
    teacher = None
    models = {"student": student}
    if stage.teacher is not None:
        assert isinstance(stage.teacher, TeacherSource), "refused by the recipe"
        teacher = _build_teacher(stage.teacher, tokenizer, len(labels), arguments)
        models["teacher"] = teacher.model
    ids = (
        None
        if is_regression(source)
        else label_ids(labels, is_given=given_labels(source) is not None)
    )
    data = prepare_labelled(rows, ids, tokenizer, max_length=max_length_of(source))
    pad_token_id = tokenizer.pad_token_id
    assert isinstance(pad_token_id, int)
    parts = Parts(models, teacher, len(labels), data, LabelCollator(pad_token_id))
    parts.check_lengths(stage)
    return parts


def stage_labels(stage: TrainStage, rows: list[Row]) -> list[str]:
    """What the outputs of the stage's student stand for; see `chosen_labels`."""
    source, student = stage.data, stage.student
    assert isinstance(source, Classification)
    teacher = labels_in(stage.teacher) if isinstance(stage.teacher, TeacherSource) else None
    if is_regression(source):
        return one_output(teacher)
    return chosen_labels(
        given_labels(source),
        teacher,
        labels_in(student) if isinstance(student, PretrainedStudent) else None,
        labels_of(source, rows),
    )


def _build_teacher(
    source: TeacherSource,
    tokenizer: PreTrainedTokenizerBase,
    num_labels: int,
    arguments: TrainingArguments,
) -> InProcessTeacher:
    check_same_tokens(tokenizer, tokenizer_of(source))
    model = load_classifier(source)
    teacher = teacher_here(model, source, num_labels, arguments)
    with teacher.awake(arguments.device):
        fit_to(model, tokenizer, "teacher", is_regression=num_labels == 1)
    return teacher
