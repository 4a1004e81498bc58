"""A train stage's teacher, from what the recipe says of it: here, in a store, or behind a server."""

from dataclasses import dataclass
from typing import assert_never

from pydantic import TypeAdapter
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from llmkd.errors import InputError
from llmkd.models.agreement import different_kinds
from llmkd.models.head import check_head
from llmkd.models.kinds import check_same_kind, is_seq2seq
from llmkd.models.load import load_model, load_tokenizer, tokenizer_of
from llmkd.models.sharded import shard
from llmkd.models.vocabulary import check_covers, check_same_tokens, shared_vocab_size
from llmkd.recipe.capture_checks import NO_CAPTURE, capture_problems
from llmkd.recipe.models import InProcessTeacher as InProcessSource
from llmkd.recipe.models import ServerTeacher, StoreTeacher
from llmkd.recipe.schema import TrainStage
from llmkd.recipe.teacher_data import Capture, TopKCapture
from llmkd.run_folder import fingerprint
from llmkd.teacher_data.places import open_store, tokenizer_folder
from llmkd.teacher_data.server_engine import ServedVLLM
from llmkd.teachers.captured import CapturedTeacher, Source
from llmkd.teachers.in_process import InProcessTeacher
from llmkd.teachers.protocol import Teacher
from llmkd.teachers.server import ServerSource
from llmkd.teachers.store import StoreSource
from llmkd.training.arguments import compute_dtype


@dataclass(frozen=True)
class BuiltTeacher:
    """A teacher, and what its kind brings along."""

    teacher: Teacher
    model: PreTrainedModel | None = None
    """Where it is here."""
    source: Source | None = None
    """Where it is not: what the batches get its positions from."""


def build_teacher(
    stage: TrainStage,
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    arguments: TrainingArguments,
) -> BuiltTeacher | None:
    """The stage's teacher, checked against the student.

    Raises:
        InputError: It has other tokens, is of another kind of model, or serves not all terms.
    """
    match stage.teacher:
        case None:
            return None
        case InProcessSource() as source:
            return _in_process(source, student, tokenizer, arguments)
        case StoreTeacher(path=path):
            return _store(path, stage, student, tokenizer)
        case ServerTeacher() as source:
            return _server(source, stage, student, tokenizer)
        case unknown:
            assert_never(unknown)


def _in_process(
    source: InProcessSource,
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    arguments: TrainingArguments,
) -> BuiltTeacher:
    check_same_tokens(tokenizer, tokenizer_of(source))
    model, vocab_size = load_model(source), shared_vocab_size(tokenizer)
    check_covers(model, vocab_size, "teacher")
    check_same_kind(student.config, model.config)
    teacher = teacher_here(model, source, vocab_size, arguments)
    # Some kernels, flash attention among them, run on the accelerator only.
    with teacher.awake(arguments.device):
        check_head(model, "teacher")
    return BuiltTeacher(teacher, model)


def teacher_here(
    model: PreTrainedModel,
    source: InProcessSource,
    vocab_size: int,
    arguments: TrainingArguments,
) -> InProcessTeacher:
    """A loaded teacher, with its weights where the recipe wants them."""
    is_offloaded = source.offload == "cpu"
    if source.sharded:
        shard(model, arguments.device, is_offloaded=is_offloaded)
    return InProcessTeacher(
        model,
        vocab_size=vocab_size,
        compute_dtype=compute_dtype(arguments),
        is_offloaded=is_offloaded,
    )


def _store(
    path: str, stage: TrainStage, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> BuiltTeacher:
    store = open_store(path)
    settings = store.settings
    check_store_fits(path, student, tokenizer)
    if settings.capture is None:
        raise InputError(f"teacher.path: {path} {NO_CAPTURE}")
    capture: Capture = TypeAdapter(Capture).validate_python(settings.capture)
    _check_terms(stage, capture)
    return BuiltTeacher(CapturedTeacher(temperature=capture.temperature), source=StoreSource(store))


def check_store_fits(
    path: str, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Refuses a store whose tokens mean something else to the student.

    Raises:
        InputError: Its teacher has another tokenizer, or is of another kind of model.
    """
    settings, own = open_store(path).settings, load_tokenizer(str(tokenizer_folder(path)))
    if fingerprint(own.get_vocab()) != settings.tokenizer_digest:
        raise InputError(
            f"{tokenizer_folder(path)}: the tokenizer is not the one that the store was made with; "
            "put the teacher's own there"
        )
    check_same_tokens(tokenizer, own)
    if problem := different_kinds(is_seq2seq(student.config), settings.is_encoder_decoder):
        raise InputError(problem)


def _server(
    source: ServerTeacher,
    stage: TrainStage,
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> BuiltTeacher:
    check_same_tokens(tokenizer, tokenizer_of(source))
    if problem := different_kinds(is_seq2seq(student.config), False):
        raise InputError(problem)
    capture = TopKCapture(top_k=source.top_k)
    _check_terms(stage, capture)
    if stage.trainer.get("dataloader_num_workers"):
        raise InputError(
            "trainer.dataloader_num_workers: a server is asked from the training process, which its "
            "connections belong to; leave it out"
        )
    return BuiltTeacher(
        CapturedTeacher(temperature=1.0),
        source=ServerSource(
            ServedVLLM(source.as_pretrained, source.server, None, capture, key="teacher.server")
        ),
    )


def _check_terms(stage: TrainStage, capture: Capture) -> None:
    found = capture_problems(stage.losses, capture)
    if problems := [f"{'.'.join(map(str, key))}: {what}" for key, what in found]:
        raise InputError(problems)
