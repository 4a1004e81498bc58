"""Joining the parts that several processes wrote into one store."""

from collections.abc import Sequence
from pathlib import Path

from llmkd.errors import InputError
from llmkd.teacher_data.store.contents import StoreCounts
from llmkd.teacher_data.store.errors import OtherSettingsError
from llmkd.teacher_data.store.folder import need_settings, read_settings
from llmkd.teacher_data.store.settings import StoreSettings
from llmkd.teacher_data.store.shards import rows_text, shard_files, shard_number
from llmkd.teacher_data.store.writer import StoreWriter


def merge(parts: Sequence[Path], output: Path) -> StoreCounts:
    """Makes one store of parts, with the bytes that one process would have written.

    The parts stay; where the file system allows it, the store's shards are links to theirs.

    Args:
        parts: Folders of stores with the same settings.
        output: The store; one of the parts, or a folder that is made.

    Raises:
        OtherSettingsError: Parts are of different stores.
        InputError: Parts have different rows for a shard, or none has them.
        DamagedStoreError: A shard is damaged.
    """
    settings = need_settings(parts[0])
    places = [*parts, output] if read_settings(output) else parts
    for part in places[1:]:
        if differences := settings.differences(need_settings(part)):
            raise OtherSettingsError(
                f"{parts[0]} and {part}: are of different stores: {differences}; name parts of one"
            )
    shards = _gathered(places, settings)
    with StoreWriter(output, settings) as writer:
        for number in list(writer.missing):
            writer.take_over(shards[number])
        return writer.finish()


def _gathered(parts: Sequence[Path], settings: StoreSettings) -> dict[int, Path]:
    """A file for each shard.

    Raises:
        InputError: There are several, or none.
    """
    files: dict[int, Path] = {}
    for path in [p for part in parts for paths in shard_files(part).values() for p in paths]:
        number = shard_number(path.name)
        assert number is not None
        if files.setdefault(number, path).name != path.name:
            raise InputError(
                f"{files[number]} and {path}: are different files of shard {number} "
                f"({rows_text(settings, number)}); leave one of the parts out, or delete one of them"
            )
    missing = [number for number in range(settings.num_shards) if number not in files]
    if missing:
        named = ", ".join(f"{number} ({rows_text(settings, number)})" for number in missing[:5])
        more = f" and {len(missing) - 5} more" if missing[5:] else ""
        raise InputError(
            f"PART: {len(missing)} of {settings.num_shards} shards are in no part: {named}{more}; "
            "name the parts that hold them, or finish those that are to"
        )
    return files
