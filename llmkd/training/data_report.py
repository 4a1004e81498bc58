"""What became of the data, said at the start of training and kept in `data.json`."""

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmkd.data.prepare import TrainingData
from llmkd.progress import say
from llmkd.run_folder import write_atomically


class DataReport(TrainerCallback):
    """Counts rows and tokens; those of a stream are known at the end only.

    Args:
        data: What is trained on.
        path: The file.
    """

    def __init__(self, data: TrainingData, path: Path):
        self.data = data
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Says what was cut or left out."""
        if self.data.lengths is not None:
            self._report()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Of a stream, all that was read."""
        if self.data.lengths is None:
            self._report()

    def _report(self) -> None:
        counts = self.data.counts
        if lost := counts.losses(self.data.sequences.max_length):
            say(lost)
        if counts.num_without_rationale:
            missing = f"{counts.num_without_rationale} of {counts.num_rows}"
            say(f"data: {missing} rows have no rationale and teach their completion alone")
        for source in counts.sources:
            times = source.num_rows / source.num_available
            more = f", each {times:.2g} times" if times > 1 else ""
            say(f"data: {source.num_rows} rows of {source.name}{more}")
        write_atomically(self.path, json.dumps(counts.as_json(), indent=2) + "\n")
