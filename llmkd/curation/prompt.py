"""`prompt`: each row asked in other words."""

from llmkd.curation.rows import has_answer
from llmkd.curation.tally import Row, StepError, Stream
from llmkd.data.prompt_files import with_prompts
from llmkd.errors import DataError
from llmkd.recipe.curation_steps import PromptStep


def prompt(rows: Stream, step: PromptStep) -> Stream:
    """Rows with the file's prompt in place of their own, or of their `messages`."""
    try:
        yield from with_prompts(map(_with_completion, rows), step.prompt_file, "the rows")
    except DataError as error:
        raise StepError(str(error.key[-1]), error.message) from error


def _with_completion(row: Row) -> Row:
    """What the assistant says at the end of `messages` is the completion of the new prompt."""
    return row | {"completion": row["messages"][-1]["content"]} if has_answer(row) else row
