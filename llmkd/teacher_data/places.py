"""Where a stage keeps its teacher store, and what else is beside it. Imports no torch.

STAGE/store/              the store, with the teacher's tokenizer in it
STAGE/data.jsonl          of a generate stage: its text
STAGE/generation.json     the counts; its presence says that all is done
"""

import hashlib
import shutil
from pathlib import Path

from llmkd.recipe.local_paths import expanded
from llmkd.recipe.models import PretrainedModel
from llmkd.run_folder import digest, fingerprint
from llmkd.teacher_data.store import Store

STORE, DATA, SUMMARY = "store", "data.jsonl", "generation.json"
TOKENIZER = "tokenizer"


def store_folder(path: str | Path) -> Path:
    """The store that a recipe's `path` means: a stage's folder, or the store itself."""
    folder = expanded(str(path))
    inside = folder / STORE
    return inside if inside.is_dir() else folder


def open_store(path: str | Path) -> Store:
    """The store that a recipe's `path` means; for errors see `Store.open`."""
    return Store.open(store_folder(path))


def tokenizer_folder(path: str | Path) -> Path:
    """The tokenizer of the teacher that a store is of."""
    return store_folder(path) / TOKENIZER


def is_of_chats(path: str | Path) -> bool:
    """Whether a store's prompts are written in its tokenizer's chat template."""
    return open_store(path).settings.chat_template_digest is not None


def copy_tokenizer(store: Path, other: Path) -> None:
    """Puts a store's tokenizer, where it has one, into another."""
    if (store / TOKENIZER).is_dir():
        shutil.copytree(store / TOKENIZER, other / TOKENIZER, dirs_exist_ok=True)


def content_of_store(path: str | Path) -> str:
    """A hash that two stores share only where they hold the same."""
    found = digest(open_store(path).folder / "manifest.json")
    assert found is not None, "an open store has one"
    return found


def content_of_teacher(teacher: PretrainedModel) -> str:
    """What a teacher is, adapter included: of local folders whatever machine they are on."""
    path, revision = teacher.model_name_or_path, teacher.revision
    model = _content(Path(path)) or f"{path}@{revision or 'main'}"
    adapter = teacher.adapter_name_or_path
    if adapter is None:
        return model
    return fingerprint({"model": model, "adapter": _content(Path(adapter)) or adapter})


def _content(folder: Path) -> str | None:
    if not folder.is_dir():
        return None
    checksums: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != "README.md":
            with path.open("rb") as file:
                checksums[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return fingerprint(checksums)
