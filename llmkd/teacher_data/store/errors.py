"""What can be wrong with a teacher store. Exit status 2, and 1 for one that is damaged."""

from llmkd.errors import InputError, LlmkdError


class StoreError(LlmkdError):
    """A teacher store that cannot be used as it is."""


class NoStoreError(StoreError, InputError):
    """What is there is no teacher store."""


class UnfinishedStoreError(StoreError, InputError):
    """Shards are still to be written."""


class UnknownFormatError(StoreError, InputError):
    """Another version of llmkd wrote it."""


class OtherSettingsError(StoreError, InputError):
    """It was begun with other settings."""


class DamagedStoreError(StoreError):
    """Bytes are not what was written, or are missing."""
