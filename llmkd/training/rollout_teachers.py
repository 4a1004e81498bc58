"""A KDRL stage's teacher of rollouts, from what the recipe says of it."""

from typing import assert_never

from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from llmkd.errors import InputError
from llmkd.models.agreement import different_kinds, different_tokens
from llmkd.models.head import check_head
from llmkd.models.kinds import check_same_kind, is_seq2seq
from llmkd.models.load import load_model, tokenizer_of
from llmkd.models.vocabulary import check_covers, shared_vocab_size
from llmkd.recipe.rollout_teachers import (
    RolloutModel,
    RolloutServer,
    RoutedTeacher,
    named_teachers,
)
from llmkd.recipe.teacher_data import TopKCapture
from llmkd.teacher_data.server_engine import ServedVLLM
from llmkd.teacher_data.vllm_requests import vocabulary_of
from llmkd.teachers import routed
from llmkd.teachers.in_process import InProcessTeacher
from llmkd.teachers.rollouts import RolloutTeacher
from llmkd.teachers.served_rollouts import ServedRollouts
from llmkd.training.teachers import teacher_here

OTHER_TEACHER = "write a teacher that has the student's"


def build_rollout_teacher(
    source: RolloutModel | RolloutServer | RoutedTeacher,
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    arguments: TrainingArguments,
) -> RolloutTeacher:
    """The teacher, or several behind one, checked against the student.

    Heads may have more rows than the tokenizer has tokens, and the student's and the teacher's
    different numbers of them: they are cropped to the tokens.

    Args:
        source: The recipe's part.
        student: Whose rollouts they are.
        tokenizer: Its own.
        arguments: The device, and the type to compute in.

    Raises:
        InputError: One has other tokens, or is another kind of model; with the recipe's key.
        LlmkdError: A server gives no answer.
    """
    check_covers(student, shared_vocab_size(tokenizer), "student")
    built = {
        key: _built(each, key, student, tokenizer, arguments)
        for key, each in named_teachers(source).items()
    }
    if isinstance(source, RoutedTeacher):
        return routed.RoutedTeacher(
            source.column, dict(zip(source.teachers, built.values(), strict=True))
        )
    return built["teacher"]


def _built(
    source: RolloutModel | RolloutServer,
    key: str,
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    arguments: TrainingArguments,
) -> RolloutTeacher:
    own = tokenizer_of(source)
    if problem := different_tokens(tokenizer.get_vocab(), own.get_vocab(), OTHER_TEACHER):
        raise InputError(f"{key}.model_name_or_path: {problem}")
    match source:
        case RolloutModel():
            return _in_process(source, student, tokenizer, arguments)
        case RolloutServer():
            return _served(source, key, student, tokenizer)
        case unknown:
            assert_never(unknown)


def _in_process(
    source: RolloutModel,
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    arguments: TrainingArguments,
) -> InProcessTeacher:
    vocab_size = shared_vocab_size(tokenizer)
    model = load_model(source)
    check_covers(model, vocab_size, "teacher")
    check_same_kind(student.config, model.config)
    teacher = teacher_here(model, source, vocab_size, arguments)
    # Some kernels, flash attention among them, run on the accelerator only.
    with teacher.awake(arguments.device):
        check_head(model, "teacher")
    return teacher


def _served(
    source: RolloutServer, key: str, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> ServedRollouts:
    if problem := different_kinds(is_seq2seq(student.config), False):
        raise InputError(problem)
    model = source.as_pretrained
    return ServedRollouts(
        # The drawn token comes with whatever is asked for; one more is what a server is probed by.
        ServedVLLM(model, source.server, None, TopKCapture(top_k=1), key=f"{key}.server"),
        vocab_size=shared_vocab_size(tokenizer),
        ends=vocabulary_of(model).stop_token_ids,
        key=key,
    )
