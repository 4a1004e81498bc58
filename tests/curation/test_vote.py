import pytest

from llmkd.errors import InputError


def of_prompt(number, *said, **columns):
    return [
        {"prompt": f"p{number}", "completion": text, "number": number, **columns} for text in said
    ]


def said(found):
    return [row["completion"] for row in found.rows]


VOTE = {"kind": "vote", "grader": "number"}


def test_the_completions_with_the_majoritys_answer_stay(curate):
    rows = [*of_prompt(0, "is 4", "so 5", "also 4", "pass"), *of_prompt(1, "7")]
    found = curate(rows, VOTE)
    assert said(found) == ["is 4", "also 4", "7"]
    assert found.step["dropped"] == {"no answer": 1, "outvoted": 1}
    assert found.step["counted"] == {"prompts decided": 2}
    assert said(curate(rows, VOTE | {"keep": "one"})) == ["is 4", "7"]


def test_answers_that_are_equal_vote_together_however_they_are_written(curate):
    rows = of_prompt(0, "1/2", "0.50", "3", "3")
    assert said(curate([*rows, *of_prompt(0, ".5")], VOTE)) == ["1/2", "0.50", ".5"]


@pytest.mark.parametrize(
    ("completions", "step", "kept", "reason"),
    [
        (["4", "5", "4", "5"], {}, [], "tie"),
        (["5", "4", "4", "5"], {"ties": "first"}, ["5", "5"], None),
        # Two of three agree: a share of 0.67.
        (["4", "4", "5"], {"min_share": 0.67}, [], "too small a share"),
        (["4", "4", "5"], {"min_share": 0.66}, ["4", "4"], None),
        (["4", "4", "pass"], {"min_share": 1.0}, [], "too small a share"),
        (["4", "4"], {"min_votes": 3}, [], "too few votes"),
        (["4", "4"], {"min_votes": 2, "min_share": 1.0}, ["4", "4"], None),
        (["pass", "no"], {}, [], "no answer"),
    ],
)
def test_who_wins(curate, completions, step, kept, reason):
    rows = [*of_prompt(0, *completions), *of_prompt(1, "9", "9", "9")]
    found = curate(rows, VOTE | step)
    assert said(found)[:-3] == kept
    undecided = {} if reason is None else {f"undecided: {reason}": len(completions)}
    assert {k: n for k, n in found.step["dropped"].items() if "undecided" in k} == undecided


def test_rows_without_numbers_are_grouped_by_their_prompt(curate):
    rows = of_prompt(0, "4", "4", "5") + of_prompt(1, "5", "5", "4")
    for row in rows:
        del row["number"]
    assert said(curate(rows, VOTE)) == ["4", "4", "5", "5"]


def test_the_answer_is_written_down(curate):
    rows = of_prompt(0, "it is billing", "BILLING!", "weather", "what?")
    step = {"kind": "vote", "grader": "multiple_choice", "labels": ["Billing", "Weather"]}
    found = curate(rows, step | {"answer_column": "label"})
    assert [row["label"] for row in found.rows] == ["Billing", "Billing"]


def test_undecided_prompts_are_a_split_without_answers(curate):
    rows = [
        *of_prompt(0, "4", "5", answer="4"),
        *of_prompt(1, "6", "6", answer="6"),
        *of_prompt(2, "none", "none", answer="7"),
    ]
    found = curate(rows, VOTE | {"undecided": "keep"})
    assert said(found) == ["6", "6"]
    assert found.undecided == [
        {"prompt": "p0", "number": 0, "answer": "4"},
        {"prompt": "p2", "number": 2, "answer": "7"},
    ]
    again = curate(
        {"dataset_name": str(found.folder), "dataset_split": "undecided"}, name="undecided"
    )
    assert again.rows == found.undecided


def test_prompts_may_all_be_undecided_where_they_are_kept(curate):
    found = curate(of_prompt(0, "4", "5"), VOTE | {"undecided": "keep"})
    assert found.rows == []
    assert len(found.undecided) == 1


def test_of_a_conversation_the_answer_is_left_out(curate):
    turns = [{"role": "user", "content": "2+2?"}]
    rows = [{"messages": [*turns, {"role": "assistant", "content": text}]} for text in "45"]
    assert curate(rows, VOTE | {"undecided": "keep"}).undecided == [{"messages": turns}]


@pytest.mark.parametrize(("num_votes", "num_answers", "share"), [(7, 25, 0.28), (7, 100, 0.07)])
def test_a_share_that_is_just_reached_is_reached(curate, num_votes, num_answers, share):
    others = [str(100 + n) for n in range(num_answers - num_votes)]
    rows = of_prompt(0, *["4"] * num_votes, *others)
    assert len(curate(rows, VOTE | {"min_share": share}).rows) == num_votes


def test_a_step_that_empties_what_a_vote_decided_is_named(curate):
    rows = [*of_prompt(0, "4", "4"), *of_prompt(1, "4", "5")]
    keeping = VOTE | {"undecided": "keep"}
    with pytest.raises(InputError, match=r"steps\.1: length drops all 2 rows"):
        curate(rows, keeping, {"kind": "length", "min_length": 1000})
    # Where nothing was decided, the next step had nothing to drop.
    assert curate(rows[2:], keeping, {"kind": "length"}).rows == []
