"""Steps, epochs and tokens of a training, and what it writes to the disk."""

import math
from collections.abc import Mapping
from typing import Any

from llmkd.check.facts import Exactness, Fact, known, value_of
from llmkd.check.memory import optimizer_of
from llmkd.check.models import Model
from llmkd.check.row_facts import DataFacts
from llmkd.recipe.data import SequenceLengths
from llmkd.recipe.schema import TrainStage

BYTES_PER_TOKEN = 4
"""Of a tokenized row, and about as many characters of text."""


def sequences_of(stage: TrainStage, data: DataFacts) -> Fact:
    """What a batch is made of: rows, or several of them packed into one."""
    if not isinstance(stage.data, SequenceLengths) or not stage.data.packing:
        return data.rows
    tokens = value_of(data.rows) * value_of(data.tokens_per_row)
    return Fact(math.ceil(tokens / stage.data.max_length), "estimate", "rows packed without a gap")


def tokens_per_sequence(stage: TrainStage, data: DataFacts) -> Fact:
    """Their mean."""
    if not isinstance(stage.data, SequenceLengths) or not stage.data.packing:
        return data.tokens_per_row
    return Fact(stage.data.max_length, "estimate", "rows packed without a gap")


def longest_sequence(stage: TrainStage, data: DataFacts) -> Fact:
    """What a batch may be padded to."""
    if not isinstance(stage.data, SequenceLengths) or not stage.data.packing:
        return data.longest
    return Fact(stage.data.max_length, "at most", "rows packed")


def step_facts(
    stage: TrainStage, data: DataFacts, arguments: Mapping[str, Any], num_processes: int = 1
) -> dict[str, Fact]:
    """Optimizer steps, tokens per step, tokens in all, and epochs, of all processes together."""
    sequences = known(lambda: sequences_of(stage, data))
    length = known(lambda: tokens_per_sequence(stage, data))
    micro, accumulation = (
        arguments["per_device_train_batch_size"] * num_processes,
        arguments["gradient_accumulation_steps"],
    )
    batch = micro * accumulation

    def per_epoch() -> Fact:
        # As llmkd.training.train counts them.
        num_batches = -(-value_of(sequences) // micro)
        return Fact(-(-num_batches // accumulation), sequences.exactness)

    each, num_epochs = known(per_epoch), arguments["num_train_epochs"]

    def steps() -> Fact:
        if arguments["max_steps"] > 0:
            return Fact(arguments["max_steps"], "exact", "trainer.max_steps")
        total = max(1, math.ceil(value_of(each) * num_epochs))
        how = f"{_counted(num_epochs, 'epoch')} of {_counted(value_of(each), 'step')}"
        return Fact(total, each.exactness, how)

    found = known(steps)
    return {
        "steps": found,
        "epochs": known(lambda: _epochs(found, each, arguments)),
        "tokens per step": known(lambda: _tokens_per_step(batch, sequences, length)),
        "tokens": known(lambda: _tokens(found, each, batch, sequences, length)),
    }


def _counted(number: float, what: str) -> str:
    return f"{number:g} {what}{'' if number == 1 else 's'}"


def _epochs(steps: Fact, per_epoch: Fact, arguments: Mapping[str, Any]) -> Fact:
    passed = round(value_of(steps) / value_of(per_epoch), 2)
    if arguments["max_steps"] <= 0:
        how = "trainer.num_train_epochs, in whole steps"
        # Where they are a whole number, they are so for any number of rows.
        is_whole = arguments["num_train_epochs"] == int(arguments["num_train_epochs"])
        return Fact(passed, "exact" if is_whole else per_epoch.exactness, how)
    exactness = "at least" if per_epoch.exactness == "at most" else per_epoch.exactness
    return Fact(passed, exactness, f"{_counted(value_of(per_epoch), 'step')} per epoch")


def _tokens_per_step(batch: int, sequences: Fact, length: Fact) -> Fact:
    num_all = sequences.value
    full = batch if num_all is None else min(batch, int(num_all))
    # The last step of an epoch takes what is left.
    is_even = num_all is not None and sequences.exactness == "exact" and num_all % full == 0
    exactness = "estimate" if length.exactness == "exact" and not is_even else length.exactness
    how = f"{_counted(full, 'sequence')} of {value_of(length):g} tokens"
    return Fact(round(full * value_of(length)), exactness, how)


def _tokens(steps: Fact, per_epoch: Fact, batch: int, sequences: Fact, length: Fact) -> Fact:
    if sequences.value is None:
        total = value_of(steps) * batch * value_of(length)
        exactness = "at most" if length.exactness == "exact" else length.exactness
        return Fact(round(total), exactness, "steps times sequences per step and their tokens")
    whole, rest = divmod(value_of(steps), value_of(per_epoch))
    in_rest = min(rest * batch, sequences.value) * value_of(length)
    total = whole * round(sequences.value * value_of(length)) + round(in_rest)
    # Part of an epoch takes some of the rows, and which ones is drawn.
    kinds = ["estimate" if rest else "exact", sequences.exactness, length.exactness]
    looser: tuple[Exactness, ...] = ("at most", "estimate")
    exactness: Exactness = "exact"
    for kind in reversed(looser):
        exactness = kind if kind in kinds else exactness
    return Fact(total, exactness, "sequences read times tokens of one")


def train_disk(
    student: Model, data: DataFacts, facts: Mapping[str, Fact], arguments: Mapping[str, Any]
) -> Fact:
    """Checkpoints (and one being written), the model, and the tokenized rows.

    Raises:
        NotKnownError: The student's size is not known.
    """
    num_parameters, num_trainable = value_of(student.parameters), value_of(student.trainable)
    is_adapter = num_trainable != num_parameters
    width = 4 if is_adapter else student.bytes_per_parameter
    checkpoint = num_trainable * (width + optimizer_of(arguments, width).bytes_per_parameter)
    num_kept = _num_checkpoints(facts, arguments)
    parts = {
        "checkpoints": round(checkpoint * (num_kept + 1)) if num_kept else 0,
        "model": num_parameters * student.bytes_per_parameter + is_adapter * 4 * num_trainable,
    }
    rows, length = data.rows.value, data.tokens_per_row.value
    if rows is not None and length is not None:
        parts["tokenized rows"] = round(rows * length * BYTES_PER_TOKEN)
    how = f"{num_kept} checkpoints and one being written"
    return Fact(sum(parts.values()), "estimate", how, "bytes", parts)


def _num_checkpoints(facts: Mapping[str, Fact], arguments: Mapping[str, Any]) -> int:
    """How many stand at the end."""
    limit = arguments["save_total_limit"]
    every = arguments["save_steps"]
    match arguments["save_strategy"]:
        case "no":
            return 0
        case "epoch":
            made = facts["epochs"].value
        case _ if facts["steps"].value is not None:
            steps = facts["steps"].value
            # transformers takes a share of all steps for so many whole steps.
            made = steps / (math.ceil(steps * every) if every < 1 else every)
        case _:
            made = 1 / every if every < 1 else None
    if made is None:
        return limit or 1
    made = max(1, math.ceil(made))
    return made if limit is None else min(limit, made)
