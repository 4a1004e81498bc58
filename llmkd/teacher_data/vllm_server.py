"""What `vllm serve` understands: its models, completions, and the log-probabilities in them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from llmkd.errors import InputError
from llmkd.recipe.teacher_data import ServerEngine
from llmkd.teacher_data.server_client import PassingError, Request, ServerClient

MODELS, COMPLETIONS = "/v1/models", "/v1/completions"
TOKEN = "token_id:"
"""What a token's id follows where tokens are asked for as ids."""

Read = TypeVar("Read")
Choice = Mapping[str, Any]
"""One completion, as vLLM answers."""


class VLLMServer:
    """One model of a running server.

    Args:
        settings: Which model of it is meant.
        client: Asks it.

    Raises:
        InputError: The server has no such model.
        LlmkdError: It gives no answer.
    """

    def __init__(self, settings: ServerEngine, client: ServerClient):
        self._client, self.key = client, client.key
        card = self._card(settings.model)
        self.model: str = card["id"]
        self.is_adapter = card.get("parent") is not None
        """Whether it is one of `--lora-modules`."""
        self.max_length: int | None = card.get("max_model_len")
        """Tokens that it reads and writes together; None where it does not say."""

    def completion(
        self, prompt: list[int] | str, settings: dict[str, Any], read: Callable[[Choice], Read]
    ) -> Request[Read]:
        """A request for one completion, whose answer is checked before it is read.

        Args:
            prompt: Token ids, or text, which the server tokenizes without special tokens.
            settings: Sampling settings by vLLM's names.
            read: Gets the completion.
        """
        body = {
            "model": self.model,
            "prompt": prompt,
            "add_special_tokens": False,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            **settings,
        }
        return Request(COMPLETIONS, lambda answer: read(_choice(answer, prompt, self.key)), body)

    def ask(self, requests: Sequence[Request[Read]], max_concurrency: int = 1) -> list[Read]:
        """What is read of the answers, in the order of the requests; see `ServerClient.ask`."""
        return self._client.ask(requests, max_concurrency=max_concurrency)

    def close(self) -> None:
        """Closes the connections; the server runs on."""
        self._client.close()

    def _card(self, name: str | None) -> dict[str, Any]:
        (listed,) = self.ask([Request(MODELS, lambda answer: answer["data"])])
        cards = {card["id"]: card for card in listed}
        if name is None and len(cards) == 1:
            (name,) = cards
        if name not in cards:
            problem = "has several models" if name is None else f"has no model {name}"
            known = self._client.masked(", ".join(cards))
            raise InputError(f"{self.key}.model: the server {problem}; write one of {known}")
        card = cards[name]
        # An adapter's own says nothing of lengths.
        base = cards.get(card.get("parent"), card)
        return card | {"max_model_len": base.get("max_model_len")}


def generated(choice: Choice) -> list[dict[int, float]]:
    """Log-probabilities for each token that was written: of the likeliest, and of that one."""
    return [
        {int(name.removeprefix(TOKEN)): value for name, value in by_name.items()}
        for by_name in choice["logprobs"]["top_logprobs"]
    ]


def prompted(choice: Choice) -> list[dict[int, float]]:
    """Log-probabilities for each token of the prompt but the first: as in `generated`."""
    return [
        {int(name): entry["logprob"] for name, entry in by_name.items()}
        for by_name in choice["prompt_logprobs"][1:]
    ]


def _choice(answer: Any, prompt: list[int] | str, key: str) -> Choice:
    choice = answer["choices"][0]
    if choice["finish_reason"] not in ("stop", "length"):
        # A server that is shut down cuts what it is writing.
        raise PassingError(f"a completion that was cut short ({choice['finish_reason']})")
    if choice.get("prompt_token_ids") is None or choice.get("token_ids") is None:
        raise InputError(
            f"{key}.base_url: the server does not say which tokens it read and wrote; start a newer "
            "vllm (0.22 or later)"
        )
    if isinstance(prompt, list):
        _check_read(choice["prompt_token_ids"], prompt, key)
    return choice


def _check_read(read: list[int], sent: list[int], key: str) -> None:
    if read != sent:
        pairs = enumerate(zip(read, sent, strict=False))
        place = next((i for i, (a, b) in pairs if a != b), min(len(read), len(sent)))
        raise InputError(
            f"{key}.base_url: the server read {len(read)} tokens where {len(sent)} were sent, "
            f"different from number {place + 1} on; write the address of vllm itself, rather than "
            "of something before it that changes requests"
        )
