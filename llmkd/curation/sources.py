"""The rows that a stage curates: of one data set, or of several put together, as they are read."""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby, islice

from llmkd.curation.rows import NUMBER, grouped, question_of
from llmkd.curation.tally import Row, Stream
from llmkd.data.files import raw_rows
from llmkd.errors import DataError
from llmkd.recipe.curation import Concatenation, CurationSource, RowsMixture, WeightedRows
from llmkd.recipe.curation_steps import CuratedRows
from llmkd.recipe.local_paths import expanded
from llmkd.teacher_data.places import DATA, SUMMARY

MERGE = "{kind: concatenation, sources: [...]}"
ROLES = ("messages", "prompt", "completion", "text")


def curated_rows(source: CurationSource) -> Stream:
    """The rows of a stage's data, in order.

    Raises:
        DataError: Nothing there, or data sets that do not belong together.
    """
    match source:
        case list():
            rows = _of_teachers(source)
        case Concatenation(sources=sources):
            rows = map(_without_number, chain.from_iterable(map(named_rows, sources)))
        case RowsMixture():
            rows = map(_without_number, chain.from_iterable(_mixed(source)))
        case CuratedRows():
            rows = named_rows(source)
            if _asked_nothing(source):
                return rows
    first = next(rows, None)
    if first is None:
        raise DataError("dataset_name", "there is no row to curate; name a data set with rows")
    return chain([first], rows)


def _asked_nothing(source: CuratedRows) -> bool:
    """Whether this is of a teacher who was to answer what others left undecided: nothing."""
    folder = expanded(source.dataset_name)
    data = folder / DATA
    return (folder / SUMMARY).is_file() and data.is_file() and not data.stat().st_size


def named_rows(source: CuratedRows) -> Stream:
    """The rows of a data set with all their columns, some of them under llmkd's names."""
    for row in islice(raw_rows(source, None), source.num_examples):
        missing = [name for name in source.columns.values() if name not in row]
        if missing:
            raise DataError(
                "columns",
                f"{source.dataset_name} has no column {', '.join(missing)}; its columns are "
                f"{', '.join(row)}",
            )
        written = set(source.columns.values())
        own = {name: value for name, value in row.items() if name not in written}
        ours = {name: row[written] for name, written in source.columns.items()}
        # In Parquet, a row has the columns of all rows, and null where it has nothing.
        yield {k: v for k, v in (own | ours).items() if v is not None or k not in ROLES}


def _without_number(row: Row) -> Row:
    """Of rows of several data sets, a number says no longer which prompt it is."""
    return {name: value for name, value in row.items() if name != NUMBER}


def _of_teachers(sources: Sequence[CuratedRows]) -> Stream:
    """Answers of several teachers, those to one prompt together, in the order of the teachers."""
    streams, are_numbered = [], []
    for source in sources:
        rows = named_rows(source)
        first = next(rows, None)
        if first is not None:
            are_numbered.append(NUMBER in first)
            streams.append(chain([first], rows))
    if not any(are_numbered):
        return chain.from_iterable(streams)
    if not all(are_numbered):
        raise DataError(
            "dataset_name",
            f"some of the data sets have a column `{NUMBER}`, by which answers to one prompt are put "
            f"together, and others have none; write {MERGE} to put them one after another",
        )
    merged = heapq.merge(*map(_ascending, streams, sources), key=lambda row: row[NUMBER])
    return _of_same_prompts(merged, sources)


def _ascending(rows: Stream, source: CuratedRows) -> Stream:
    last = None
    for row in rows:
        if not isinstance(row.get(NUMBER), int) or (last is not None and row[NUMBER] < last):
            raise DataError(
                "dataset_name",
                f"{source.dataset_name}: `{NUMBER}` {row.get(NUMBER)} comes after {last}; the answers "
                f"of several teachers are put together by it; write {MERGE} to put data sets one "
                "after another",
            )
        last = row[NUMBER]
        yield row


def _of_same_prompts(rows: Iterable[Row], sources: Sequence[CuratedRows]) -> Stream:
    for number, answers in groupby(rows, lambda row: row[NUMBER]):
        group = list(answers)
        asked = list(dict.fromkeys(map(question_of, group)))
        if len(asked) > 1:
            names = ", ".join(source.dataset_name for source in sources)
            raise DataError(
                "dataset_name",
                f"{names} asked different prompts: number {number} is {asked[0][:60]!r} and "
                f"{asked[1][:60]!r}; name stages that answer the same data, or write {MERGE}",
            )
        yield from group


def _mixed(mixture: RowsMixture) -> Iterator[list[Row]]:
    """Groups of rows: next comes the source that is furthest behind its share.

    Ends with the first source that is exhausted, or, where a number of rows is asked for, with that.
    """
    is_repeating = mixture.num_examples is not None
    streams = [_groups(source, is_repeating=is_repeating) for source in mixture.sources]
    total = sum(source.weight for source in mixture.sources)
    shares = [source.weight / total for source in mixture.sources]
    taken = [0] * len(streams)
    while not is_repeating or sum(taken) < (mixture.num_examples or 0):
        behind = [share * (sum(taken) + 1) - n for share, n in zip(shares, taken, strict=True)]
        chosen = behind.index(max(behind))
        group = next(streams[chosen], None)
        if group is None and is_repeating:
            name = mixture.sources[chosen].dataset_name
            raise DataError("sources", f"{name} has no rows to mix; name data sets with rows")
        if group is None:
            return
        if mixture.num_examples is not None:
            group = group[: mixture.num_examples - sum(taken)]
        taken[chosen] += len(group)
        yield group


def _groups(source: WeightedRows, *, is_repeating: bool) -> Iterator[list[Row]]:
    while True:
        is_empty = True
        for group in grouped(named_rows(source)):
            is_empty = False
            yield group
        if is_empty or not is_repeating:
            return
