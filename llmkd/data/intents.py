"""Requests to an assistant, to be told apart by what they ask for: a task made from a seed.

A request is a template of its label with words for its slots, perhaps with a polite beginning and an
end, and every word of it is lost with a chance of one in four:

    book_flight    please (get) me a flight from rome (to) paris tomorrow
    flight_status  is (the) flight from rome to paris on time

Labels share most of their words, so that some of what is left fits several labels: nobody can be
right about all of them, and what a teacher holds possible says more than the label. Imports neither
torch nor transformers.
"""

import hashlib
import random

from llmkd.errors import DataError
from llmkd.recipe.data import IntentTask, NamedIntentTask, Split

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
NAMING_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")
LOSS_OF_WORDS = 0.25

TEMPLATES = {
    "book_flight": (
        "book a flight from {city} to {city} {day}",
        "get me a ticket to {city} for {day}",
        "i need a flight to {city} {day}",
        "find a seat on the plane from {city} to {city}",
    ),
    "flight_status": (
        "is the flight from {city} to {city} on time",
        "when does the plane to {city} leave {day}",
        "has my flight from {city} landed",
        "check the flight to {city} for {day}",
    ),
    "cancel_trip": (
        "cancel my flight to {city} {day}",
        "i do not need the ticket to {city} for {day}",
        "drop my trip from {city} to {city}",
        "cancel the hotel in {city} for {day}",
    ),
    "book_hotel": (
        "book a hotel in {city} for {day}",
        "find me a room in {city} {day}",
        "i need a bed in {city} from {day}",
        "get a room at the hotel in {city}",
    ),
    "balance": (
        "how much money is on my {account} account",
        "check my {account} account",
        "what is left on the {account} account {day}",
        "show me the money on my {account} account",
    ),
    "transfer": (
        "send {amount} from my {account} account to {person}",
        "move {amount} to the {account} account",
        "give {person} {amount} from my {account} account",
        "transfer {amount} to {person} {day}",
    ),
    "pay_bill": (
        "pay the {bill} bill from my {account} account",
        "pay {amount} for the {bill} bill",
        "send the money for the {bill} bill {day}",
        "i need to pay for {bill} {day}",
    ),
    "bill_due": (
        "when is the {bill} bill due",
        "how much is the {bill} bill",
        "what do i owe for {bill} {day}",
        "is the {bill} bill due {day}",
    ),
    "set_alarm": (
        "set an alarm for {time} {day}",
        "wake me at {time} {day}",
        "i need an alarm at {time}",
        "get me out of bed at {time} {day}",
    ),
    "set_reminder": (
        "remind me to pay the {bill} bill {day}",
        "set a reminder for {time} {day}",
        "remind me of the flight to {city} at {time}",
        "do not let me forget to call {person} {day}",
    ),
    "weather": (
        "what is the weather in {city} {day}",
        "is it warm in {city} {day}",
        "will it rain in {city} at {time}",
        "how is the weather {day} in {city}",
    ),
    "call": (
        "call {person} at {time}",
        "i need to talk to {person} {day}",
        "get me {person} on the phone",
        "call the hotel in {city} for me",
    ),
}
"""What each label asks for."""
LABELS = tuple(TEMPLATES)

SLOTS = {
    "city": "rome paris oslo lima cairo tokyo delhi boston quito dublin",
    "day": "today tomorrow tonight monday tuesday friday sunday",
    "account": "savings checking joint business",
    "amount": "ten twenty fifty hundred",
    "person": "anna ben carla david emma felix",
    "bill": "water power phone rent gas",
    "time": "six seven eight nine noon midnight",
}
BEGINNINGS = ("", "please", "hey", "can you", "i want you to", "could you please")
ENDS = ("", "please", "thanks", "for me", "if you can")

# Tenths of all texts, as the range of `_tenth(text)`.
TENTHS: dict[Split, range] = {
    "train": range(5),
    "unlabelled": range(5, 8),
    "validation": range(8, 9),
    "test": range(9, 10),
}
MOST_EXAMPLES: dict[Split, int] = {
    "train": 20_000,
    "unlabelled": 12_000,
    "validation": 4_000,
    "test": 4_000,
}
"""What a split gives with every seed; there are some more texts."""


def make_rows(task: IntentTask | NamedIntentTask, seed: int) -> list[dict[str, str]]:
    """Makes `num_examples` different requests of the task's split, as `text` and `label`.

    Which split a text belongs to is fixed for good and does not depend on the seed. A smaller
    `num_examples` gives the first rows of a larger one.

    Raises:
        InputError: The split has fewer requests than asked for.
    """
    refuse_too_many(task)
    # `random()` alone: of all of Python's draws, it is promised to stay as it is.
    draw = random.Random(seed).random
    found: dict[str, str] = {}
    while len(found) < task.num_examples:
        label = _one_of(LABELS, draw())
        text = _request(label, draw)
        if text and _tenth(text) in TENTHS[task.split]:
            found.setdefault(text, label)
    return [{"text": text, "label": label} for text, label in found.items()]


def make_named_rows(task: NamedIntentTask, seed: int) -> list[dict[str, str]]:
    """The same requests as `prompt`, with their label's name as `completion` and `answer`."""
    return [
        {"prompt": row["text"], "completion": row["label"], "answer": row["label"]}
        for row in make_rows(task, seed)
    ]


def refuse_too_many(task: IntentTask | NamedIntentTask) -> None:
    """Raises DataError where the split has fewer requests than asked for."""
    most = MOST_EXAMPLES[task.split]
    if task.num_examples > most:
        raise DataError(
            "num_examples",
            f"split {task.split} gives {most} requests at most, {task.num_examples} were asked for; "
            f"write num_examples: {most} or less",
        )


def words() -> list[str]:
    """Every word of a request, in a fixed order."""
    templates = (template for several in TEMPLATES.values() for template in several)
    texts = [*templates, *SLOTS.values(), *BEGINNINGS, *ENDS]
    return sorted({word for text in texts for word in text.split() if "{" not in word})


def vocabulary() -> dict[str, int]:
    """The tokens of the task's tokenizer, one per word, and their ids."""
    return {token: i for i, token in enumerate([*SPECIAL_TOKENS, *words()])}


def naming_vocabulary() -> dict[str, int]:
    """The tokens of models that read requests and write labels: one per word, and one per label."""
    tokens = [*NAMING_TOKENS, *sorted({*words(), *LABELS})]
    return {token: i for i, token in enumerate(tokens)}


def _request(label: str, draw) -> str:
    template = _one_of(TEMPLATES[label], draw())
    parts = [_one_of(BEGINNINGS, draw()), *template.split(), _one_of(ENDS, draw())]
    filled = (_one_of(SLOTS[part[1:-1]].split(), draw()) if "{" in part else part for part in parts)
    return " ".join(word for part in filled for word in part.split() if draw() >= LOSS_OF_WORDS)


def _one_of(options, share: float) -> str:
    return options[int(share * len(options))]


def _tenth(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % 10


def most_words() -> int:
    """Words of the longest request that there may be; each slot is one."""
    return sum(
        max(len(text.split()) for text in texts)
        for texts in (BEGINNINGS, ENDS, [t for several in TEMPLATES.values() for t in several])
    )
