"""A teacher behind a server, asked about every batch as it is made."""

from collections.abc import Sequence

from llmkd.teacher_data.capture_logits import joined
from llmkd.teacher_data.captured import Positions
from llmkd.teacher_data.engine import Engine
from llmkd.teachers.captured import Document


class ServerSource:
    """Implements `Source`."""

    def __init__(self, engine: Engine):
        self.engine = engine

    def positions(self, documents: Sequence[Document]) -> Positions:
        """See `Source.positions`."""
        sequences = [list(map(int, document.token_ids)) for document in documents]
        spans = [list(document.spans) for document in documents]
        return joined(self.engine.score(sequences, spans))
