import pytest

from llmkd.errors import InputError


def rows_of(num_prompts, num_samples=3):
    return [
        {
            "prompt": f"p{i}",
            "completion": str(k),
            "number": i,
            "is_right": k < i % (num_samples + 1),
        }
        for i in range(num_prompts)
        for k in range(num_samples)
    ]


HALF = {"kind": "select", "fraction": 0.5}


def test_a_fraction_of_the_prompts_stays_with_all_their_rows(curate):
    rows = rows_of(2000)
    found = curate(rows, HALF | {"fraction": 0.2})
    kept = {row["number"] for row in found.rows}
    assert found.rows == [row for row in rows if row["number"] in kept]
    # Binomial: 400 with a standard deviation of 18.
    assert 325 < len(kept) < 475
    assert found.step["dropped"] == {"not drawn": len(rows) - len(found.rows)}


def test_which_ones_depends_on_seed_stage_and_step_alone(curate):
    rows = rows_of(300)
    first = curate(rows, HALF, seed=1)
    assert curate(rows[300:], HALF, seed=1).rows == [r for r in first.rows if r["number"] >= 100]
    assert curate(rows, HALF, seed=2).rows != first.rows
    # Drawn alike, the second step would keep all that the first one kept.
    twice = curate(rows, HALF, HALF, seed=1)
    assert len(twice.rows) < 0.75 * len(first.rows)
    assert len(curate(first.rows, HALF, seed=1, name="next").rows) < 0.75 * len(first.rows)


@pytest.mark.parametrize(
    ("bounds", "rates"),
    [([0.3, 0.7], {1, 2}), ([0.0, 0.0], {0}), ([1.0, 1.0], {3}), ([0.0, 1.0], {0, 1, 2, 3})],
)
def test_prompts_are_selected_by_how_often_they_are_answered_right(curate, bounds, rates):
    # The rates of four prompts are 0, 1/3, 2/3 and 1.
    found = curate(rows_of(4), {"kind": "select", "pass_rate": bounds})
    assert {row["number"] for row in found.rows} == rates
    assert len(found.rows) == 3 * len(rates)


def test_too_hard_and_too_easy_are_counted_apart(curate):
    found = curate(rows_of(4), {"kind": "select", "pass_rate": [0.3, 0.5]})
    assert found.step["dropped"] == {"too easy": 6, "too hard": 3}


def test_a_pass_rate_needs_verdicts(curate):
    step = {"kind": "select", "pass_rate": [0.3, 0.5]}
    with pytest.raises(InputError, match=r"steps.0.pass_rate: the rows have no column `is_right`"):
        curate([{"prompt": "p", "completion": "c"}], step)
    with pytest.raises(InputError, match="`is_right` is not true or false in every row"):
        curate([{"prompt": "p", "completion": "c", "is_right": "yes"}], step)
