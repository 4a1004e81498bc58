"""Whether a server's tokens are the teacher's, and its log-probabilities what is to be captured."""

import re
from typing import Any

from llmkd.errors import InputError
from llmkd.recipe.teacher_data import Generation
from llmkd.teacher_data.server_client import RefusedError
from llmkd.teacher_data.vllm_log_probs import positions_of_rows, rows_of_mappings
from llmkd.teacher_data.vllm_requests import Vocabulary, sampling
from llmkd.teacher_data.vllm_server import VLLMServer, generated, prompted

PROBE = 'The 3 quick foxes (née Müller): “x = f(7)”; 敏捷的狐狸 🦊!\n\tDone, "isn\'t" it? No.'
SAME_LOG_PROB = 0.1
"""Nats between two log-probabilities of one token: half precision, and batches of another size."""


def check_server(server: VLLMServer, vocabulary: Vocabulary, top_k: int | None) -> None:
    """Asks for a few tokens, and refuses a server that answers otherwise than its teacher would.

    Args:
        server: What is asked.
        vocabulary: The teacher's.
        top_k: Log-probabilities to be kept at each position; None asks for none.

    Raises:
        InputError: It tokenizes otherwise, or gives fewer log-probabilities, or of another kind.
        LlmkdError: It gives no answer.
    """
    text = PROBE
    if server.max_length is not None:
        # No tokenizer makes more tokens than there are bytes.
        text = PROBE.encode()[: server.max_length - 2].decode(errors="ignore")
    ids: Any = vocabulary.tokenizer.encode(text, add_special_tokens=False)
    _check_tokenizer(server, text, ids)
    if top_k is not None:
        _check_log_probs(server, ids, vocabulary, top_k)


def check_is_adapter(server: VLLMServer) -> None:
    """Refuses a model without the adapter that its teacher has.

    Raises:
        InputError: It is none of the server's `--lora-modules`.
    """
    if not server.is_adapter:
        raise InputError(
            f"{server.key}.model: {server.model} is served without an adapter, and the teacher has one; "
            "start the server with --enable-lora --lora-modules NAME=ADAPTER, and write "
            f"{server.key}.model: NAME"
        )


def _check_tokenizer(server: VLLMServer, text: str, ids: list[int]) -> None:
    settings = {"max_tokens": 1, "temperature": 0.0}
    request = server.completion(text, settings, lambda choice: choice["prompt_token_ids"])
    if server.ask([request]) != [ids]:
        raise InputError(
            f"{server.key}.base_url: {server.model} does not tokenize as teacher.model_name_or_path does; "
            "serve that teacher, or write the one that is served"
        )


def _check_log_probs(
    server: VLLMServer, ids: list[int], vocabulary: Vocabulary, top_k: int
) -> None:
    """Compares what it says of a token that it writes, at temperature 2, and of the same token read."""
    num_asked = top_k + vocabulary.num_spare
    hot = sampling(Generation(temperature=2.0), vocabulary, seed=0, max_tokens=1)
    writing = server.completion(
        ids,
        hot | {"logprobs": num_asked},
        lambda choice: (choice["token_ids"], generated(choice)[0]),
    )
    try:
        ((token, as_written),) = server.ask([writing])
        reading = server.completion(
            [*ids, *token],
            hot | {"prompt_logprobs": num_asked},
            lambda choice: prompted(choice)[-1],
        )
        (as_read,) = server.ask([reading])
    except RefusedError as error:
        raise _with_max_logprobs(error, server.model, top_k, vocabulary.num_spare) from error
    rows = rows_of_mappings(token, [as_written], num_asked)
    positions_of_rows(*rows, vocabulary.size, top_k)
    differences = [abs(as_written[token] - as_read[token]) for token in {*as_written} & {*as_read}]
    if max(differences) > SAME_LOG_PROB:
        raise InputError(
            f"{server.key}.base_url: the log-probabilities of {server.model} change with the temperature "
            f"that it samples at, by up to {max(differences):.2g} nats; start it with "
            "--logprobs-mode raw_logprobs"
        )


def _with_max_logprobs(error: RefusedError, model: str, top_k: int, num_spare: int) -> RefusedError:
    found = re.search(r"logprobs of .* max allowed: (\d+)", str(error))
    if not found:
        return error
    most, num_asked = int(found[1]), top_k + num_spare
    spare = (
        f", and {num_spare} to be asked for beside them as the head is padded" if num_spare else ""
    )
    smaller = f", or write capture.top_k: {most - num_spare}" if most > num_spare else ""
    return RefusedError(
        f"capture.top_k: the server gives {most} log-probabilities a position, and {top_k} are to be "
        f"kept{spare}; start it with `vllm serve {model} --max-logprobs {num_asked}`{smaller}"
    )
