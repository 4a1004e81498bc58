"""Which turns of a conversation a teacher is given to answer. Imports no torch."""

from collections.abc import Mapping
from typing import Any

from llmkd.errors import DataError
from llmkd.recipe.data import PromptRows

Messages = list[dict[str, Any]]
ASKING = ("user", "tool")
"""Roles whose turn an assistant's follows."""
SYSTEM = ("system", "developer")

NO_CHAT_TEMPLATE = (
    "the teacher's tokenizer has no chat template; write data.chat_template: FILE.jinja, or give the "
    "teacher plain text: rows of `prompt`, without apply_chat_template"
)


def no_conversations(name: str) -> str:
    """What is wrong with conversations for a seq2seq teacher; `name` is the data set's."""
    return (
        f"{name}: a teacher with an encoder and a decoder reads no conversations; write rows of "
        "`prompt`, without apply_chat_template"
    )


def conversation(row: Mapping[str, Any], number: int, source: PromptRows) -> Messages | None:
    """What a row asks the teacher to answer; None where its prompt is read as plain text.

    Args:
        row: With `messages`, or a `prompt`.
        number: Its own, from 1.
        source: The recipe's `data`.

    Raises:
        DataError: Its messages do not end where an answer can follow.
    """
    if "messages" in row:
        turns = row["messages"]
        turns = turns[:-1] if turns[-1]["role"] == "assistant" else turns
        _refuse_odd_end(turns, number)
    elif source.apply_chat_template:
        turns = [{"role": "user", "content": row["prompt"]}]
    else:
        return None
    if source.system_prompt is None or turns[0]["role"] in SYSTEM:
        return turns
    return [{"role": "system", "content": source.system_prompt}, *turns]


def _refuse_odd_end(turns: Messages, number: int) -> None:
    last = turns[-1]["role"] if turns else None
    if last in ASKING:
        return
    what = f"end with a turn of `{last}`" if turns else "have no turn"
    raise DataError(
        "dataset_name",
        f"row {number}: before the assistant's answer, `messages` {what}; let them end with a turn of "
        f"`{ASKING[0]}` or `{ASKING[1]}`, which the assistant's own answer may follow, or leave the "
        "row out",
    )


def refuse_unused(row: Mapping[str, Any], source: PromptRows) -> None:
    """Refuses what only a chat template has use for, where the rows are read as plain text.

    Args:
        row: Any one.
        source: The recipe's `data`.

    Raises:
        DataError: Such a field is written.
    """
    if "messages" in row or source.apply_chat_template:
        return
    for field in ("system_prompt", "chat_template"):
        if getattr(source, field) is not None:
            raise DataError(
                field,
                "the rows' `prompt` is plain text, which has no such thing; write "
                "apply_chat_template: true, or leave it out",
            )
