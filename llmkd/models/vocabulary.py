"""Do two models speak the same tokens, and how many of their head's rows are real ones?"""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmkd.errors import InputError
from llmkd.models.agreement import different_tokens, too_few_embeddings
from llmkd.models.head import output_head


def shared_vocab_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """One more than the tokenizer's largest token id: the rows of a head that mean something."""
    return max(tokenizer.get_vocab().values()) + 1


def check_same_tokens(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> None:
    """Refuses two tokenizers that give different meanings to token ids.

    Raises:
        InputError: Names the first tokens that differ.
    """
    if problem := different_tokens(student.get_vocab(), teacher.get_vocab()):
        raise InputError(problem)


def check_covers(model: PreTrainedModel, vocab_size: int, name: str) -> None:
    """Refuses a model with fewer embeddings than its tokenizer has tokens."""
    num_rows = output_head(model).weight.shape[0]
    if problem := too_few_embeddings(num_rows, vocab_size, name):
        raise InputError(problem)
