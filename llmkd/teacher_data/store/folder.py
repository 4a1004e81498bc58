"""What a store's folder says of itself.

    STORE/plan.json        the settings; written first
    STORE/manifest.json    the settings, and what is there; written last

The presence of the manifest says that the store is whole.
"""

import json
from pathlib import Path
from typing import Any

from llmkd.teacher_data.store.contents import MANIFEST
from llmkd.teacher_data.store.errors import DamagedStoreError, NoStoreError, UnfinishedStoreError
from llmkd.teacher_data.store.sealed import file_checksum, read_sealed
from llmkd.teacher_data.store.settings import StoreSettings
from llmkd.teacher_data.store.shards import SETTINGS, map_batch, name_checksum, shard_files

PLAN = "plan.json"


def read_settings(folder: Path) -> StoreSettings | None:
    """The settings of a store that was begun, from the first file that is whole; else None.

    Raises:
        DamagedStoreError: No file is whole.
        UnknownFormatError: Another version of llmkd wrote it.
    """
    shards = [path for paths in shard_files(folder).values() for path in paths]
    places = [path for path in (folder / PLAN, folder / MANIFEST, *shards) if path.exists()]
    for path in places:
        if (said := _said_in(path)) is not None:
            return StoreSettings.from_json(said, path)
    if places:
        raise DamagedStoreError(
            f"{folder}: no file is whole that says what it is a store of; delete it, and generate "
            "the teacher data again"
        )
    return None


def _said_in(path: Path) -> dict[str, Any] | None:
    try:
        if path.suffix == ".json":
            return read_sealed(path)
        if file_checksum(path) == name_checksum(path):
            return json.loads(map_batch(path).schema.metadata[SETTINGS])
    except (ValueError, KeyError, TypeError):
        pass
    return None


def need_settings(folder: Path) -> StoreSettings:
    """The same, of a folder that is to be a store.

    Raises:
        NoStoreError: It is none.
    """
    settings = read_settings(folder)
    if settings is None:
        raise NoStoreError(
            f"{folder}: is no teacher store; write the folder of one, as `llmkd "
            "generate-teacher-data` makes them"
        )
    return settings


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the manifest of a whole store says.

    Raises:
        NoStoreError: There is no store.
        UnfinishedStoreError: Shards are still to be written.
        DamagedStoreError: The manifest is.
    """
    path = folder / MANIFEST
    try:
        return read_sealed(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise unfinished(folder, need_settings(folder)) from error
    except ValueError as error:
        raise DamagedStoreError(
            f"{path}: is damaged; `llmkd cache repair {folder}` makes it again from the shards"
        ) from error


def unfinished(folder: Path, settings: StoreSettings) -> UnfinishedStoreError:
    """The error that says how much is missing, and what goes on."""
    num_missing = len(missing_shards(folder, settings))
    return UnfinishedStoreError(
        f"{folder}: is not finished, {num_missing} of {settings.num_shards} shards are missing; run "
        "`llmkd generate-teacher-data` with its recipe again, which goes on, or join its parts with "
        "`llmkd cache merge`"
    )


def missing_shards(folder: Path, settings: StoreSettings) -> list[int]:
    """The shards that have no file."""
    return sorted({*range(settings.num_shards)} - shard_files(folder).keys())
