"""The teacher store: what a teacher wrote and said, in shards that survive anything.

    store = Store.open("runs/offline/stages/teacher_data")
    store[0].completion, store.positions([0, 7])

A row is a `StoreRow`; `StoreWriter` writes them. Nothing here imports torch.
"""

from llmkd.teacher_data.store.errors import (
    DamagedStoreError,
    NoStoreError,
    OtherSettingsError,
    StoreError,
    UnfinishedStoreError,
    UnknownFormatError,
)
from llmkd.teacher_data.store.reader import Store
from llmkd.teacher_data.store.rows import StoreRow, is_whole, tokens_key
from llmkd.teacher_data.store.settings import StoreSettings
from llmkd.teacher_data.store.writer import StoreWriter

__all__ = [
    "DamagedStoreError",
    "NoStoreError",
    "OtherSettingsError",
    "Store",
    "StoreError",
    "StoreRow",
    "StoreSettings",
    "StoreWriter",
    "UnfinishedStoreError",
    "UnknownFormatError",
    "is_whole",
    "tokens_key",
]
