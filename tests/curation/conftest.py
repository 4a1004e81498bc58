"""A curate stage on rows that a test writes, in this process."""

import json
from types import SimpleNamespace

import pytest

from llmkd.curation.run import run_curation
from llmkd.recipe.curation import CurateStage


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def write_rows(tmp_path):
    """Writes rows as a file; gives its path."""

    def write(rows, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


@pytest.fixture
def curate(tmp_path, write_rows):
    """Runs steps on rows, or on the stage's `data`; gives what is left, and the manifest."""

    def run(rows, *steps, seed=0, name="stage", read_back=True):
        data = rows if isinstance(rows, str | dict) else write_rows(rows)
        if isinstance(rows, list) and rows and isinstance(rows[0], str):
            data = rows
        content = json.dumps({"kind": "curate", "data": data, "steps": steps})
        folder = tmp_path / name
        stage = CurateStage.model_validate_json(content)
        run_curation(stage, folder, seed=seed, progress=lambda done, total: None)
        if not read_back:
            return None
        manifest = json.loads((folder / "curation.json").read_text())
        for step in manifest["steps"]:
            step.pop("settings")
        undecided = folder / "undecided.jsonl"
        return SimpleNamespace(
            rows=read_lines(folder / "data.jsonl"),
            manifest=manifest,
            step=manifest["steps"][-1] if manifest["steps"] else None,
            undecided=read_lines(undecided) if undecided.exists() else None,
            folder=folder,
        )

    return run


@pytest.fixture
def answered():
    """Rows of one prompt each: (completion, right answer) pairs."""

    def make(*pairs):
        return [
            {"prompt": f"question {i}", "completion": said, "answer": right, "number": i}
            for i, (said, right) in enumerate(pairs)
        ]

    return make
