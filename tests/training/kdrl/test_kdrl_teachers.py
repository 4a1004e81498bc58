"""KDRL's teachers from a recipe, routed teachers in training, and where a step's time goes."""

import functools
import itertools

import pytest
import torch
from pydantic import TypeAdapter
from torch.testing import assert_close
from trl import GRPOConfig, GRPOTrainer

from llmkd.errors import InputError, LlmkdError
from llmkd.recipe.rollout_teachers import RolloutTeacher, server_refusals
from llmkd.schedules import constant
from llmkd.teachers.in_process import InProcessTeacher
from llmkd.teachers.routed import RoutedTeacher
from llmkd.training import trl_compat
from llmkd.training.kdrl_trainer import Distillation
from llmkd.training.rollout_teachers import build_rollout_teacher
from llmkd.training.step_clock import StepClock

DOMAINS = ("sums", "others")


@pytest.fixture
def saved(tmp_path):
    """Saves a model with a tokenizer; gives its folder."""

    def save(model, tokenizer, name="teacher"):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return save


@pytest.fixture
def build(tiny_llama, tokenizer, tmp_path):
    """Builds the teacher of a recipe's part, for a student whose vocabulary is padded to 40."""

    def make(**part):
        source = TypeAdapter(RolloutTeacher).validate_python(part)
        student = tiny_llama(tokenizer, vocab_size=40)
        arguments = GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False)
        return build_rollout_teacher(source, student, tokenizer, arguments)

    return make


@pytest.fixture
def routed(teacher, tokenizer, tiny_llama):
    other = InProcessTeacher(tiny_llama(tokenizer, seed=2), vocab_size=len(tokenizer))
    return RoutedTeacher("domain", dict(zip(DOMAINS, (teacher, other), strict=True)))


@pytest.fixture
def by_domain(prompts):
    """The prompts with a column that names teachers in turn."""
    return prompts.add_column("domain", [DOMAINS[row % 2] for row in range(len(prompts))])


@pytest.mark.parametrize("rows", [18, 32, 64])
def test_vocabularies_padded_to_different_sizes_fit(build, saved, tiny_llama, tokenizer, rows):
    model = tiny_llama(tokenizer, seed=1, vocab_size=rows)
    built = build(model_name_or_path=saved(model, tokenizer))
    assert isinstance(built, InProcessTeacher)
    assert (built.vocab_size, built.is_offloaded) == (18, False)
    assert_close(built.model.lm_head.weight, model.lm_head.weight)


def test_offload_reaches_the_teacher(build, saved, tiny_llama, tokenizer):
    assert build(
        model_name_or_path=saved(tiny_llama(tokenizer), tokenizer), offload="cpu"
    ).is_offloaded


def test_another_tokenizer_is_refused_with_the_key_of_its_teacher(
    build, saved, tiny_llama, tokenizer, chat_tokenizer
):
    good = {"model_name_or_path": saved(tiny_llama(tokenizer), tokenizer)}
    bad = {"model_name_or_path": saved(tiny_llama(chat_tokenizer), chat_tokenizer, "other")}
    for key, part in (
        (r"teacher", bad),
        (
            r"teacher\.teachers\.b",
            {"kind": "routed", "column": "x", "teachers": {"a": good, "b": bad}},
        ),
    ):
        with pytest.raises(
            InputError, match=rf"^{key}\.model_name_or_path: .*tokens differ.*: write a"
        ):
            build(**part)


def test_a_head_without_all_tokens_is_refused(build, saved, tiny_llama, tokenizer):
    with pytest.raises(InputError, match="teacher: the model has 17 token embeddings"):
        build(model_name_or_path=saved(tiny_llama(tokenizer, vocab_size=17), tokenizer))


def test_a_mix_of_kinds_is_built_and_a_server_that_is_not_there_named(
    build, saved, tiny_llama, tokenizer
):
    folder = saved(tiny_llama(tokenizer), tokenizer)
    server = {"kind": "server", "base_url": "http://127.0.0.1:9", "max_retries": 0}
    served = {"kind": "server", "model_name_or_path": folder, "server": server}
    teachers = {"here": {"model_name_or_path": folder}, "there": served}
    with pytest.raises(LlmkdError, match=r"teacher\.teachers\.there\.server\.base_url: .*start it"):
        build(kind="routed", column="domain", teachers=teachers)


def test_in_training_each_rollout_is_scored_by_the_teacher_its_row_names(
    trained, routed, by_domain, one_model, tokenizer
):
    trainer = trained(Distillation(routed, constant(0.5)), rows=by_domain)
    domains = dict(zip(by_domain["prompt"], by_domain["domain"], strict=True))
    (_, rollouts), *_ = trainer.seen
    assert {*rollouts["routes"].tolist()} == {0, 1}
    for row, route in enumerate(rollouts["routes"].tolist()):
        ids = rollouts["prompt_ids"][row][rollouts["prompt_mask"][row].bool()]
        prompt = tokenizer.decode(ids, skip_special_tokens=True)
        assert domains[prompt] == DOMAINS[route]
        expected = one_model(routed.teachers[DOMAINS[route]], rollouts, row)
        kept = rollouts["kd_tokens"][row]
        assert_close(rollouts["teacher_logprobs"][row][kept], expected[kept], atol=1e-5, rtol=1e-5)


@pytest.fixture
def one_model():
    """One row's log-probabilities from a teacher's dense logits."""

    def score(teacher, rollouts, row):
        ids, mask = (
            torch.cat([rollouts[f"prompt_{x}"][row], rollouts[f"completion_{x}"][row]])[None]
            for x in ("ids", "mask")
        )
        length = rollouts["completion_ids"].shape[1]
        with torch.no_grad():
            logits = teacher.model(input_ids=ids, attention_mask=mask).logits[0, -length - 1 : -1]
        logits = logits[:, : teacher.vocab_size].log_softmax(-1)
        return logits.gather(-1, rollouts["completion_ids"][row][:, None])[:, 0]

    return score


@pytest.mark.parametrize("name", ["k2", "full_vocabulary"])
def test_the_same_teacher_under_two_names_is_as_good_as_one(
    trained, teacher, by_domain, gradients, name
):
    parts = {"estimator": name, "reward_weight": constant(0.0), "mask": "response"}
    one = trained(Distillation(teacher, constant(0.5), **parts), rows=by_domain)
    two = RoutedTeacher("domain", dict.fromkeys(DOMAINS, teacher))
    found = trained(Distillation(two, constant(0.5), **parts), rows=by_domain)
    assert_close(gradients(found), gradients(one), atol=1e-6, rtol=1e-5)
    keys = ("kd/reverse_kl", "kd/responses")
    for log in zip(one.state.log_history[:1], found.state.log_history[:1], strict=True):
        assert [log[0][key] for key in keys] == pytest.approx([log[1][key] for key in keys])


def test_a_row_that_names_no_teacher_is_refused_before_anything_is_written(
    trained, routed, by_domain, prompts
):
    names = [*by_domain["domain"]]
    names[4] = "law"
    wrong = prompts.add_column("domain", names)
    with pytest.raises(InputError, match=r"^teacher\.teachers: row 5 has `domain` 'law'"):
        trained(Distillation(routed), rows=wrong)
    with pytest.raises(InputError, match=r"^teacher\.column: row 1 has no `domain`"):
        trained(Distillation(routed))


def test_what_a_teacher_cannot_do_is_refused_when_the_trainer_is_built(
    trained, distillation, teacher, monkeypatch
):
    monkeypatch.setattr(teacher, "refusals", lambda **asked: server_refusals("teacher", **asked))
    with pytest.raises(InputError, match=r"trainer\.temperature: 0\.5 is not 1"):
        trained(distillation(), temperature=0.5)
    with pytest.raises(InputError, match=r"objective\.estimator: full_vocabulary takes"):
        trained(distillation(estimator="full_vocabulary"))
    trained(distillation())


@pytest.mark.parametrize("name", ["k2", "full_vocabulary"])
def test_an_offloaded_teacher_teaches_the_same_bits(trained, teacher, gradients, name):
    kd = Distillation(teacher, constant(0.5), estimator=name)
    before = gradients(trained(kd))
    teacher.is_offloaded = True
    after = gradients(trained(kd))
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_parts_of_a_step_add_up_and_the_inner_one_counts():
    times = itertools.accumulate([0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0])
    clock = StepClock(torch.device("cpu"), now=lambda: next(times))
    with clock.part("rollout"), clock.part("rewards"):
        pass
    # 1 before, 2 in the outer part, 4 in the inner one, 8 in the outer again, 16 after.
    assert clock.seconds() == {"rollout": 10.0, "teacher": 0.0, "rewards": 4.0, "update": 17.0}
    clock.begin()
    assert clock.seconds() == {"rollout": 0.0, "teacher": 0.0, "rewards": 0.0, "update": 64.0}


@pytest.mark.parametrize("name", ["k2", "full_vocabulary"])
def test_the_log_says_what_each_step_spent_on_what(trained, distillation, monkeypatch, name):
    now = [0.0]
    monkeypatch.setattr(trl_compat, "StepClock", lambda x: StepClock(x, now=lambda: now[0]))

    def slow(owner, method, seconds):
        fast = getattr(owner, method)

        @functools.wraps(fast)
        def takes(*args, **kwargs):
            now[0] += seconds
            return fast(*args, **kwargs)

        monkeypatch.setattr(owner, method, takes)

    slow(GRPOTrainer, "_generate", 1)
    slow(GRPOTrainer, "_calculate_rewards", 10)
    slow(InProcessTeacher, "signals", 100)
    slow(GRPOTrainer, "_compute_loss", 1000)
    slow(torch.optim.SGD, "step", 20_000)
    cut = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    trainer = trained(distillation(estimator=name), max_steps=2, learning_rate=0.0, **cut)
    lines = [line for line in trainer.state.log_history if "time/rollout" in line]
    assert len(lines) == 2
    for line in lines:
        found = {key: seconds for key, seconds in line.items() if key.startswith("time/")}
        assert found == {
            "time/rollout": 1,
            "time/rewards": 10,
            "time/teacher": 200,
            "time/update": 22_000,
        }
