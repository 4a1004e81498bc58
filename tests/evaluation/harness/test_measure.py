import random

import numpy as np
import pytest
import torch
from sklearn.metrics import matthews_corrcoef

from llmkd.errors import InputError
from llmkd.evaluation.harness import measure as measure_module
from llmkd.evaluation.harness.measure import measure_harness
from tests.evaluation.harness.conftest import CHOICE, TEXT, WRITTEN


def values(measured):
    return {one.metric: one.found.value for one in measured.estimates}


def test_choices_are_the_likeliest_continuations(make_task, subject, setting):
    task = make_task(CHOICE)
    measured = measure_harness(subject, task, setting())
    # By the model itself: the digit after "=" with the largest logit of the three.
    right = []
    for i in range(24):
        ids = subject.tokenizer(f"{7 * i}+{i**3}=", return_tensors="pt").input_ids
        logits = subject.model(ids).logits[0, -1]
        digits = subject.tokenizer.convert_tokens_to_ids(["1", "2", "3"])
        right.append(int(logits[digits].argmax()) == i % 3)
    assert 0 < sum(right) < 24
    assert values(measured)["acc"] == sum(right) / 24
    shown = measured.details.samples
    assert [sample.is_right for sample in shown] == right[:8]
    assert (shown[1].prompt, shown[1].reference) == ("7+1=", "2")


def test_questions_of_several_rows_are_right_as_a_whole(make_task, subject, setting, write_rows):
    rows = [{"sum": f"{7 * i}+{i**3}", "label": i % 3, "of": {"q": i // 3}} for i in range(24)]
    data = {"dataset_name": write_rows(rows, "asked.jsonl")}
    # By Brier's score alone, lm-eval does not say which rows are right.
    without = {**CHOICE, "metric_list": CHOICE["metric_list"][1:]}
    task = make_task(without, data=data, exact_match_by=["of.q"])
    measured = measure_harness(subject, task, setting())
    right = [one.is_right for one in measured.details.samples]
    alone = measure_harness(subject, make_task(CHOICE, data=data), setting())
    assert right == [one.is_right for one in alone.details.samples], "as lm-eval says by `acc`"
    em = measured.estimates[-1]
    assert (em.metric, em.num_examples) == ("em", 8)
    each = measure_harness(subject, make_task(CHOICE, data=data, exact_match_by=["sum"]), setting())
    assert values(each)["em"] == values(each)["acc"], "where every row is a question"


@pytest.mark.parametrize(("definition", "by"), [(WRITTEN, "sum"), (TEXT, "sum")])
def test_only_choices_are_questions_of_several_rows(make_task, subject, setting, definition, by):
    with pytest.raises(
        InputError, match="exact_match_by: is for tasks that choose between answers"
    ):
        measure_harness(subject, make_task(definition, exact_match_by=[by]), setting())


def test_what_is_no_mean_is_resampled_by_its_own_aggregation(make_task, subject, setting, spied):
    mcc = {"metric": "mcc", "aggregation": "matthews_corrcoef", "higher_is_better": True}
    task = make_task({**CHOICE, "metric_list": [mcc]})
    (found,) = measure_harness(subject, task, setting()).estimates
    pairs = np.array([sample["mcc"] for sample in spied["samples"]["sums"]])
    assert found.found.value == pytest.approx(matthews_corrcoef(*pairs.T), rel=1e-12)
    chosen = np.random.default_rng(3).integers(0, 24, (2000, 24))[:20]
    again = [matthews_corrcoef(*pairs[rows].T) for rows in chosen]
    np.testing.assert_allclose(found.found.resampled[:20], again, rtol=1e-12)


def test_models_on_the_same_examples_have_the_same_resamples(make_task, subject, setting):
    first, second = (measure_harness(subject, make_task(CHOICE), setting()) for _ in range(2))
    for one, other in zip(first.estimates, second.estimates, strict=True):
        np.testing.assert_array_equal(one.found.resampled, other.found.resampled)


def test_answers_are_greedy_and_end_before_a_stop(make_task, subject, setting):
    measured = measure_harness(subject, make_task(WRITTEN), setting())
    assert measured.details.lengths == [
        len(subject.tokenizer.tokenize(text)) for text in texts(subject, 24)
    ]
    assert [sample.text for sample in measured.details.samples] == texts(subject, 8)


def texts(subject, num_rows):
    found = []
    for i in range(num_rows):
        ids = subject.tokenizer(f"{7 * i}+{i**3}=", return_tensors="pt").input_ids
        out = subject.model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
        found.append(subject.tokenizer.decode(out, skip_special_tokens=True).split("#")[0])
    return found


def test_bits_per_byte_is_the_mean_over_all_bytes(make_task, subject, setting):
    measured = measure_harness(subject, make_task(TEXT), setting())
    bits, num_bytes = 0.0, 0
    for i in range(24):
        text = f"{7 * i}+{i**3}"
        # lm-eval puts the begin-of-text token before what the tokenizer gives, which has one, and
        # scores that one too.
        ids = torch.tensor([[subject.tokenizer.bos_token_id, *subject.tokenizer(text).input_ids]])
        logprobs = subject.model(ids).logits[0, :-1].log_softmax(-1)
        bits -= float(logprobs.gather(1, ids[0, 1:, None]).sum()) / np.log(2)
        num_bytes += len(text)
    assert values(measured)["bits_per_byte"] == pytest.approx(bits / num_bytes, rel=1e-5)


def test_the_first_rows_alone_are_measured_and_the_others_may_be_examples(
    make_task, subject, setting
):
    task = make_task(WRITTEN, data={"num_examples": 4}, num_fewshot=9)
    measured = measure_harness(subject, task, setting())
    assert {one.num_examples for one in measured.estimates} == {4}


@pytest.mark.parametrize("fewshot", ["others", "all"])
def test_a_row_is_never_its_own_example(
    fewshot, make_task, subject, setting, write_rows, sums, spied
):
    few = None
    if fewshot == "all":
        rows = [{"sum": f"{i}+0", "answer": str(i), "label": 0} for i in range(5)]
        few = write_rows([*rows, {"sum": "0+0", "answer": "0", "label": 0}], "few.jsonl")
    task = make_task(WRITTEN, data={"fewshot_name": few}, num_fewshot=3)
    measure_harness(subject, task, setting())
    for sample in spied["samples"]["sums"]:
        examples, question = sample["arguments"][0][0].rsplit("\n\n", 1)
        assert len(examples.split("\n\n")) == 3
        assert question not in [line[: len(question)] for line in examples.split("\n\n")]


def test_few_shot_examples_depend_on_the_seed_alone(make_task, subject, setting, spied):
    def prompts(seed):
        random.seed(len(spied))
        measure_harness(subject, make_task(WRITTEN, num_fewshot=2), setting(seed=seed))
        return [sample["arguments"][0][0] for sample in spied["samples"]["sums"]]

    assert prompts(1) == prompts(1)
    assert prompts(1) != prompts(2)


def test_settings_of_the_generation_reach_lm_eval(make_task, subject, setting):
    task = make_task(WRITTEN, generation_kwargs={"max_gen_toks": 2})
    assert max(measure_harness(subject, task, setting()).details.lengths) == 2


def test_random_states_are_left_as_they_were(make_task, subject, setting):
    task = make_task(WRITTEN, generation_kwargs={"do_sample": True, "temperature": 1.0})
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    measure_harness(subject, task, setting())
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])
    # Python's own is drawn from by the type checks of the tests.
    state = random.getstate()
    with measure_module._seeded(9):
        assert random.random() == random.Random(9).random()
    assert random.getstate() == state


def test_prompts_take_the_chat_format(make_task, subject, setting, chat_tokenizer, spied):
    chat_tokenizer.save_pretrained(subject.source.model_name_or_path)
    settings = {"apply_chat_template": True, "system_instruction": "Add.", "num_fewshot": 1}
    task = make_task(WRITTEN, data={"num_examples": 1}, **settings)
    subject.model.resize_token_embeddings(len(chat_tokenizer))
    measure_harness(subject, task, setting())
    (sample,) = spied["samples"]["sums"]
    prompt = sample["arguments"][0][0]
    assert prompt.startswith("<|im_start|>system\nAdd.<|im_end|>\n<|im_start|>user\n")
    assert prompt.endswith("0+0=<|im_end|>\n<|im_start|>assistant\n")
    assert prompt.count("<|im_start|>assistant") == 2


def test_a_model_without_a_chat_format_is_refused(make_task, subject, setting):
    task = make_task(WRITTEN, apply_chat_template=True)
    with pytest.raises(InputError, match=r"apply_chat_template: tiny has no chat template; write"):
        measure_harness(subject, task, setting())


def test_answers_longer_than_the_model_are_refused(make_task, subject, setting):
    task = make_task(WRITTEN, generation_kwargs={"max_gen_toks": 128})
    with pytest.raises(InputError, match=r"max_gen_toks: 128 tokens .* the model's 128; write"):
        measure_harness(subject, task, setting())


def test_what_lm_eval_says_is_not_shown_but_cut_texts_are_counted(
    make_task, subject, setting, capfd
):
    told = []
    task = make_task(WRITTEN, generation_kwargs={"max_gen_toks": 119})
    measure_harness(subject, task, setting(progress=lambda *moved: told.append(moved)))
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "sums: texts were too long for tiny, and lm-eval cut their beginnings" in err
    assert told[-1] == (24, 24)
    assert told == sorted(told)


@pytest.fixture
def spied(monkeypatch):
    """What lm-eval returned to llmkd."""
    found = {}
    ask = measure_module.evaluate
    monkeypatch.setattr(
        measure_module, "evaluate", lambda *a, **k: found.update(result := ask(*a, **k)) or result
    )
    return found
