"""Whether student, teacher, tokenizer and data fit; imports no torch, so a check can ask too."""

from collections.abc import Mapping

from llmkd.recipe.data import AdditionTask, Task
from llmkd.recipe.models import ScratchStudent
from llmkd.recipe.schema import TrainStage

ONE_TOKENIZER = (
    "give the student the teacher's (student.tokenizer_name_or_path), or write losses: [{kind: "
    "cross_entropy}] and train on text that the teacher wrote"
)
"""What to do about a teacher with other tokens than its student's."""


def different_tokens(
    ours: Mapping[str, int], theirs: Mapping[str, int], advice: str = ONE_TOKENIZER
) -> str | None:
    """What is wrong with two tokenizers that give different meanings to token ids.

    Args:
        ours: The student's tokens and their ids.
        theirs: The teacher's.
        advice: What to write instead.
    """
    if ours == theirs:
        return None
    differing = sorted(
        token for token in {**ours, **theirs} if ours.get(token) != theirs.get(token)
    )
    return (
        f"student and teacher have different tokenizers: {len(differing)} tokens differ, such as "
        + ", ".join(repr(token) for token in differing[:3])
        + f"; token-level divergences need one tokenizer: {advice}"
    )


def too_few_embeddings(num_rows: int, vocab_size: int, name: str) -> str | None:
    """What is wrong with a model that has fewer embeddings than its tokenizer has tokens.

    Args:
        num_rows: Of the model's output head.
        vocab_size: One more than the tokenizer's largest token id.
        name: `student` or `teacher`.
    """
    if num_rows >= vocab_size:
        return None
    return (
        f"{name}: the model has {num_rows} token embeddings, its tokenizer {vocab_size} "
        "tokens; set the model's vocab_size to at least that, or use the tokenizer that "
        "belongs to it"
    )


def different_kinds(is_student_seq2seq: bool, is_teacher_seq2seq: bool) -> str | None:
    """What is wrong with a seq2seq model and a causal one, which read different batches.

    Args:
        is_student_seq2seq: Whether the student has an encoder and a decoder.
        is_teacher_seq2seq: Whether the teacher has.
    """
    if is_student_seq2seq == is_teacher_seq2seq:
        return None
    kinds = ("a causal model", "a seq2seq model")
    return (
        f"the student is {kinds[is_student_seq2seq]} and the teacher {kinds[is_teacher_seq2seq]}, "
        "which do not read the same batch; take two of one kind, or write losses: "
        "[{kind: cross_entropy}] without a teacher, and train on text that the teacher wrote (a "
        "generate stage)"
    )


def no_start(model_type: str) -> str:
    """What is wrong with a seq2seq model's configuration that does not say how its decoder begins."""
    return (
        f"the configuration of this {model_type} model has no decoder_start_token_id, so its decoder "
        "has nothing to begin with; write the token's id there: T5 takes padding, BART end-of-text"
    )


def different_starts(ours: object, theirs: object) -> str | None:
    """What is wrong with decoders that begin with different tokens.

    Args:
        ours: The token id that the student's begins with.
        theirs: The teacher's.
    """
    if ours == theirs:
        return None
    return (
        f"the student's decoder begins with token {ours}, the teacher's with token {theirs}, and "
        f"both read the same batch; write decoder_start_token_id: {theirs} in the student's "
        "configuration"
    )


NO_LANGUAGE_MODEL = (
    "is a classifier, which writes no text; write a causal language model, or data of kind "
    "classification"
)
"""What is wrong with a classifier where a language model is needed."""

NO_CLASSIFIER = (
    "is no classifier; write a model that a stage with data.kind: classification made, or a folder "
    "of a ...ForSequenceClassification"
)
"""What is wrong with another model where a trained classifier is needed."""

PACKED_PAIRS = (
    "an encoder and a decoder read one example at a time; write packing: false, and "
    "trainer.train_sampling_strategy: group_by_length for little padding"
)
"""What is wrong with packing for a seq2seq model."""


def not_pairs(name: str, column: str) -> str:
    """What is wrong with rows other than prompt and completion for a seq2seq model.

    Args:
        name: The data set's, or the task's.
        column: What there is instead.
    """
    return (
        f"{name}: rows of `{column}`, of which a model with an encoder and a decoder does not know "
        "what to read and what to write; give it rows of `prompt` and `completion`, or say which "
        "they are by columns: {prompt: NAME, completion: NAME}"
    )


def too_long_for(
    stage: TrainStage, role: str, longest: int, limit: int
) -> tuple[tuple[str, ...], str]:
    """What is wrong with rows of more tokens than a model has positions for.

    Args:
        stage: What it is trained by.
        role: `student` or `teacher`.
        longest: Tokens that are read at once.
        limit: The model's positions.

    Returns:
        The key that is at fault, inside the stage, and the message.
    """
    what = f"{longest} tokens are read at once, and the {role} has {limit} positions"
    if not isinstance(stage.data, Task):
        return ("data", "max_length"), f"{what}; write max_length: {limit}"
    # A task's rows are as long as they are: it has no max_length.
    is_addition = isinstance(stage.data, AdditionTask)
    ways = ["fewer digits"] if is_addition else []
    if role == "student" and isinstance(stage.student, ScratchStudent):
        is_gpt2 = "n_positions" in stage.student.config
        field = "n_positions" if is_gpt2 else "max_position_embeddings"
        ways.append(f"{field}: {longest} in student.config")
    key = ("data", "digits") if is_addition else (role,)
    return key, f"{what}; write {', or '.join(ways) or 'a model with more'}"
