"""What a recipe may not say of rationales, with the way out."""

import pytest

from llmkd.errors import InputError
from llmkd.recipe.load import load

BOTH = "[{kind: cross_entropy, name: answer, part: completion}, {kind: cross_entropy, part: rationale}]"
DATA = "{kind: task, digits: 1, num_examples: 9, steps: rationale, rationale: {kind: step_by_step, prefix: ;}}"
T5 = "{kind: scratch, config: {model_type: t5}}"


@pytest.fixture
def problem(tmp_path):
    """The messages about a train stage; none where the recipe loads."""

    def of(data=DATA, losses=BOTH, more=""):
        path = tmp_path / "recipe.yaml"
        stage = f"{{kind: train, student: {T5}, data: {data}, losses: {losses}, {more}}}"
        path.write_text(f"name: r\nstages: {{s: {stage}}}\n")
        try:
            load(str(path))
        except InputError as error:
            return str(error)
        return ""

    return of


def test_two_terms_of_two_parts_are_as_it_should_be(problem):
    assert problem() == ""


def test_parts_do_not_share_a_mean(problem):
    assert "not to share one mean" in problem(losses="[{kind: cross_entropy}]")


def test_a_part_needs_data_that_has_it(problem):
    plain = "{kind: task, digits: 1, num_examples: 9}"
    message = problem(data=plain)
    assert "losses.0.part" in message
    assert "data.rationale: {kind: step_by_step}" in message
    chained = DATA.replace("kind: step_by_step, prefix: ;", "kind: chain_of_thought")
    assert "has no parts" in problem(data=chained)


def test_rationales_that_no_term_is_of_are_refused(problem):
    assert "no term of `losses`" in problem(losses="[{kind: cross_entropy, part: completion}]")


def test_a_store_says_nothing_of_two_sequences(problem, tmp_path):
    store = f"teacher: {{kind: store, path: {tmp_path}}}"
    losses = BOTH.replace("}]", "}, {kind: forward_kl, part: completion}]")
    assert "teacher.kind: a store has" in problem(losses=losses, more=store)


def test_two_tasks_need_two_prefixes(problem):
    data = DATA.replace("steps:", "prompt_prefix: ;, steps:")
    assert "data.prompt_prefix: ';' stands before" in problem(data=data)
    mixture = "{kind: mixture, rationale: {kind: step_by_step}, sources: [{dataset_name: x/y}, {dataset_name: x/y, prompt_prefix: 'explain: '}]}"  # fmt: skip
    assert "data.sources.1.prompt_prefix" in problem(data=mixture)


def test_sums_need_their_steps_apart(problem):
    assert "write steps: rationale" in problem(data=DATA.replace("steps: rationale, ", ""))


def test_two_sequences_are_not_packed(problem):
    data = "{dataset_name: x/y, packing: true, rationale: {kind: step_by_step}}"
    assert "write packing: false" in problem(data=data)
