"""A stage that writes a procedural task's rows.

STAGE/data.jsonl      the rows
STAGE/tokenizer.json  the task's tokenizer, and what belongs to it
"""

import json
from pathlib import Path

from llmkd.data.tasks import build_tokenizer, make_rows
from llmkd.recipe.procedural import TaskRowsStage
from llmkd.run_folder import write_atomically


def write_task_rows(stage: TaskRowsStage, folder: Path, *, seed: int) -> None:
    """Writes the rows, and before them the tokenizer.

    Args:
        stage: Which rows.
        folder: The stage's; made where it is missing.
        seed: The run's.

    Raises:
        InputError: The task has fewer rows than asked for.
    """
    rows = make_rows(stage.data, seed)
    build_tokenizer(stage.data).save_pretrained(folder)
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    write_atomically(folder / "data.jsonl", "".join(f"{line}\n" for line in lines))
