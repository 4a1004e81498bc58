"""The few errors that llmkd raises on purpose."""

from collections.abc import Sequence


class LlmkdError(Exception):
    """Something that the user can mend; the message says what to write instead. Exit status 1."""

    exit_status = 1


class InputError(LlmkdError, ValueError):
    """Bad input: a recipe, an override, a path, a data set. Exit status 2, no traceback.

    Args:
        problems: Each in the form `<place> <dotted key>: <what was wrong>; <what to write instead>`.
    """

    exit_status = 2

    def __init__(self, problems: str | Sequence[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class DataError(InputError):
    """Data that cannot be used.

    Args:
        field: The field of a recipe's `data` to mend.
        message: What is wrong; what to write instead.
    """

    def __init__(self, field: str, message: str):
        self.key: tuple[str | int, ...] = (field,)
        self.message = message
        super().__init__(f"data.{field}: {message}")
