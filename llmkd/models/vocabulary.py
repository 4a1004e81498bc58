"""Do two models speak the same tokens, and how many of their head's rows are real ones?"""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmkd.errors import InputError
from llmkd.models.head import output_head


def shared_vocab_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """One more than the tokenizer's largest token id: the rows of a head that mean something."""
    return max(tokenizer.get_vocab().values()) + 1


def check_same_tokens(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> None:
    """Refuses two tokenizers that give different meanings to token ids.

    Raises:
        InputError: Names the first tokens that differ.
    """
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    if ours == theirs:
        return
    differing = sorted(token for token in ours | theirs if ours.get(token) != theirs.get(token))
    raise InputError(
        f"student and teacher have different tokenizers: {len(differing)} tokens differ, such as "
        + ", ".join(repr(token) for token in differing[:3])
        + "; token-level divergences need one tokenizer: give the student the teacher's "
        "(student.tokenizer_name_or_path), or write losses: [{kind: cross_entropy}] and train on "
        "text that the teacher wrote"
    )


def check_covers(model: PreTrainedModel, vocab_size: int, name: str) -> None:
    """Refuses a model with fewer embeddings than its tokenizer has tokens."""
    num_rows = output_head(model).weight.shape[0]
    if num_rows < vocab_size:
        raise InputError(
            f"{name}: the model has {num_rows} token embeddings, its tokenizer {vocab_size} "
            "tokens; set the model's vocab_size to at least that, or use the tokenizer that "
            "belongs to it"
        )
