"""Steps, epochs and tokens of a training, and what it writes to the disk."""

import math
from collections.abc import Mapping
from typing import Any

from llmkd.check.facts import Fact, known, value_of
from llmkd.check.lengths import DataFacts
from llmkd.check.memory import optimizer_of
from llmkd.check.models import Model
from llmkd.recipe.data import AdditionTask
from llmkd.recipe.schema import TrainStage

BYTES_PER_TOKEN = 4
"""Of a tokenized row, and about as many characters of text."""


def sequences_of(stage: TrainStage, data: DataFacts) -> Fact:
    """What a batch is made of: rows, or several of them packed into one."""
    if isinstance(stage.data, AdditionTask) or not stage.data.packing:
        return data.rows
    tokens = value_of(data.rows) * value_of(data.tokens_per_row)
    return Fact(math.ceil(tokens / stage.data.max_length), "estimate", "rows packed without a gap")


def tokens_per_sequence(stage: TrainStage, data: DataFacts) -> Fact:
    """Their mean."""
    if isinstance(stage.data, AdditionTask) or not stage.data.packing:
        return data.tokens_per_row
    return Fact(stage.data.max_length, "estimate", "rows packed without a gap")


def longest_sequence(stage: TrainStage, data: DataFacts) -> Fact:
    """What a batch may be padded to."""
    if isinstance(stage.data, AdditionTask) or not stage.data.packing:
        return data.longest
    return Fact(stage.data.max_length, "at most", "rows packed")


def step_facts(stage: TrainStage, data: DataFacts, arguments: Mapping[str, Any]) -> dict[str, Fact]:
    """Optimizer steps, tokens per step, tokens in all, and epochs, on one device."""
    sequences = known(lambda: sequences_of(stage, data))
    length = known(lambda: tokens_per_sequence(stage, data))
    micro, accumulation = (
        arguments["per_device_train_batch_size"],
        arguments["gradient_accumulation_steps"],
    )
    batch = micro * accumulation

    def steps() -> Fact:
        if arguments["max_steps"] > 0:
            return Fact(arguments["max_steps"], "exact", "trainer.max_steps")
        # As llmkd.training.train counts them.
        num_batches = -(-value_of(sequences) // micro)
        per_epoch = -(-num_batches // accumulation)
        total = max(1, math.ceil(per_epoch * arguments["num_train_epochs"]))
        how = f"{arguments['num_train_epochs']:g} epochs of {per_epoch} steps"
        return Fact(total, sequences.exactness, how)

    def tokens_per_step() -> Fact:
        how = f"{batch} sequences of {value_of(length):g} tokens"
        return Fact(round(batch * value_of(length)), length.exactness, how)

    def tokens(steps: Fact, per_step: Fact) -> Fact:
        total = value_of(steps) * value_of(per_step)
        exactness = per_step.exactness if steps.exactness == "exact" else steps.exactness
        return Fact(total, exactness, "steps times tokens per step")

    def epochs(steps: Fact) -> Fact:
        passed = value_of(steps) * batch / value_of(sequences)
        exactness = "at least" if sequences.exactness == "at most" else sequences.exactness
        return Fact(round(passed, 2), exactness, "steps times sequences per step, of all there are")

    found, per_step = known(steps), known(tokens_per_step)
    return {
        "steps": found,
        "epochs": known(lambda: epochs(found)),
        "tokens per step": per_step,
        "tokens": known(lambda: tokens(found, per_step)),
    }


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
        case _ if every < 1:
            made = 1 / every
        case _:
            made = None if facts["steps"].value is None else facts["steps"].value / every
    if made is None:
        return limit or 1
    made = max(1, math.ceil(made))
    return made if limit is None else min(limit, made)
