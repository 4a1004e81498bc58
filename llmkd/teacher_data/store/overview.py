"""What a store holds and what it takes, without reading its shards."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmkd.teacher_data.store.contents import MANIFEST, StoreCounts
from llmkd.teacher_data.store.folder import missing_shards, need_settings, read_manifest


def inspect(folder: Path) -> dict[str, Any]:
    """Settings, counts and sizes of a store, as plain data; of one that is not finished no counts.

    Raises:
        NoStoreError: It is none.
        DamagedStoreError: Its manifest is.
        UnknownFormatError: Another version of llmkd wrote it.
    """
    settings = need_settings(folder)
    is_finished = (folder / MANIFEST).exists()
    overview = {
        "store": str(folder),
        "is_finished": is_finished,
        "settings": asdict(settings),
        "fingerprint": settings.fingerprint,
        "num_shards": settings.num_shards,
        "missing_shards": missing_shards(folder, settings),
    }
    if is_finished:
        counts = StoreCounts(**read_manifest(folder)["counts"])
        overview |= {"counts": asdict(counts), "sizes": _sizes(counts)}
    return overview


def _sizes(counts: StoreCounts) -> dict[str, float | None]:
    return {
        "bytes_per_token": _ratio(counts.num_bytes, counts.num_tokens),
        "bytes_per_position": _ratio(counts.num_bytes, counts.num_positions),
        "payload_bytes_per_position": _ratio(counts.num_payload_bytes, counts.num_positions),
    }


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 3) if whole else None
