"""Writes a tokenizer with one token per word: `python -m llmkd.data.word_tokenizer ROWS FOLDER`.

Its words are those that occur at least twice in the `text` (and `text_pair`) of the rows, lower-cased and
parted at white space; all others are `[UNK]`. `text=sentence1 text_pair=sentence2` after the folder say
what the rows call them.
"""

import sys

from llmkd.data.sources import iter_rows
from llmkd.data.words import vocabulary_of, word_tokenizer
from llmkd.errors import InputError
from llmkd.progress import say
from llmkd.recipe.data import LabelledRows
from llmkd.recipe.load import checked_part


def main(arguments: list[str]) -> None:
    """Writes a tokenizer's folder.

    Raises:
        InputError: Fewer than two arguments, no such column, or rows that cannot be used.
    """
    if len(arguments) < 2:
        raise InputError("python -m llmkd.data.word_tokenizer: write a data set, and a folder")
    name, folder, *renamed = arguments
    columns = {name: column for name, _, column in (text.partition("=") for text in renamed)}
    content = {"kind": "classification", "dataset_name": name, "columns": columns}
    source = checked_part(content, LabelledRows, "python -m llmkd.data.word_tokenizer")
    rows = iter_rows(source, seed=0, need="texts")
    texts = (row[key] for row in rows for key in ("text", "text_pair") if key in row)
    tokenizer = word_tokenizer(vocabulary_of(texts))
    tokenizer.save_pretrained(folder)
    say(f"{folder}: {len(tokenizer)} tokens")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        say(str(error))
        sys.exit(2)
