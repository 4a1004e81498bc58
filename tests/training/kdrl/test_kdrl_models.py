"""KDRL with adapters, other vocabularies, other ends, an evaluation, and settings it refuses."""

import copy

import peft
import pytest
import torch
from torch.testing import assert_close
from trl import GRPOTrainer

from llmkd.errors import InputError, LlmkdError
from llmkd.schedules import constant
from llmkd.teachers.in_process import InProcessTeacher
from llmkd.training import trl_compat
from llmkd.training.kdrl_trainer import PAPER_ANNEALED, Distillation


def reverse_kl(student, teacher, _):
    return (student.exp() * (student - teacher)).sum(-1)


@pytest.mark.parametrize(("name", "term"), [("k2", None), ("full_vocabulary", reverse_kl)])
def test_an_adapter_gets_the_whole_gradient_and_its_base_none(
    trained, distillation, gradients, by_hand, tiny_llama, tokenizer, name, term
):
    config = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    torch.manual_seed(0)
    student = peft.get_peft_model(tiny_llama(tokenizer), config)
    trainer = trained(distillation(reward_weight=0.0, estimator=name), student=student)
    found = gradients(trainer)
    assert found
    assert all("lora_" in key for key in found)
    assert_close(found, by_hand(trainer.seen, term=term), atol=1e-5, rtol=1e-3)


def test_the_full_vocabulary_in_float64_is_that_of_dense_logits_to_the_last_digits(
    trained, teacher, by_hand, gradients, tiny_llama, tokenizer
):
    wide = InProcessTeacher(teacher.model.double(), vocab_size=teacher.vocab_size)
    kd = Distillation(wide, constant(0.5), estimator="full_vocabulary", reward_weight=constant(0.0))
    trainer = trained(kd, student=tiny_llama(tokenizer).double())
    assert_close(gradients(trainer), by_hand(trainer.seen, term=reverse_kl), atol=1e-9, rtol=1e-7)


def test_a_padded_row_of_the_student_is_what_the_teacher_rules_out(
    trained, distillation, tiny_llama, tokenizer
):
    student = tiny_llama(tokenizer, vocab_size=40)
    trainer = trained(distillation(), student=student, learning_rate=0.0)
    (_, rollouts), *_ = trainer.seen
    is_padded = rollouts["completion_ids"] >= len(tokenizer)
    assert is_padded.any()
    assert not is_padded.all()
    assert_close(rollouts["teacher_logprobs"].isinf(), is_padded)
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert 0 < losses[0] < 1e6


def test_an_end_that_means_nothing_to_the_teacher_is_not_imitated(
    trained, distillation, teacher, tokenizer
):
    with_end = trained(distillation()).seen[0][1]
    teacher.model.generation_config.eos_token_id = [tokenizer.pad_token_id]
    without = trained(distillation()).seen[0][1]
    is_end = without["completion_ids"] == tokenizer.eos_token_id
    assert (is_end & with_end["kd_tokens"]).any()
    assert torch.equal(without["kd_tokens"], with_end["kd_tokens"] & ~is_end)
    assert without["kd_count"] == without["kd_tokens"].sum()


def test_the_teacher_is_asked_at_the_sampling_temperature(trained, distillation, teacher):
    trainer = trained(distillation(), temperature=2.0)
    (_, rollouts), *_ = trainer.seen
    ids = torch.cat([rollouts["prompt_ids"], rollouts["completion_ids"]], 1)
    mask = torch.cat([rollouts["prompt_mask"], rollouts["completion_mask"]], 1)
    length = rollouts["completion_ids"].shape[1]
    with torch.no_grad():
        logits = teacher.model(input_ids=ids, attention_mask=mask).logits
    logits = logits[:, -length - 1 : -1, : teacher.vocab_size] / 2.0
    expected = logits.log_softmax(-1).gather(-1, rollouts["completion_ids"][..., None])[..., 0]
    kept = rollouts["kd_tokens"]
    assert_close(rollouts["teacher_logprobs"][kept], expected[kept], atol=1e-5, rtol=1e-5)


def test_a_coefficient_that_ends_at_0_lets_the_teacher_rest(trained, teacher, monkeypatch):
    asked = []
    signals = InProcessTeacher.signals
    monkeypatch.setattr(
        InProcessTeacher, "signals", lambda *x: asked.append(trainer_step()) or signals(*x)
    )
    steps = []

    def coefficient(step):
        steps.append(step)
        return 0.5 if step < 1 else 0.0

    def trainer_step():
        return max(steps)

    trained(Distillation(teacher, coefficient), max_steps=3, learning_rate=0.01)
    assert set(asked) == {0}
    assert max(steps) == 2


def test_the_papers_annealing_falls_by_5e_5_a_step_to_its_floor():
    assert [PAPER_ANNEALED(step) for step in (0, 1, 40, 80, 280)] == pytest.approx(
        [5e-3, 4.95e-3, 3e-3, 1e-3, 1e-3]
    )


def test_an_evaluation_has_the_whole_term_of_its_batch(trained, distillation, prompts):
    trainer = trained(distillation(reward_weight=0.0), max_steps=1)
    trainer.seen.clear()
    found = trainer.evaluate(prompts.select(range(2)))
    (_, rollouts) = trainer.seen[0]
    assert rollouts["kd_count"] == rollouts["completion_mask"].sum()
    assert found["eval_loss"] > 0
    assert found["eval_kd/coefficient"] == 0.5


def test_an_evaluation_leaves_the_latest_rollouts_those_of_the_training(
    trained, distillation, prompts
):
    trainer = trained(distillation())
    latest = trainer.latest_rollouts(4)
    trainer.evaluate(prompts.select(range(2)))
    assert trainer.latest_rollouts(4) == latest
    assert len(latest) == 4


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"loss_type": "cispo"}, "trainer.loss_type: cispo .* write one of dapo, bnpo"),
        ({"importance_sampling_level": "sequence"}, "write importance_sampling_level: token"),
        ({"top_p": 0.9}, r"trainer.top_p: .*0\.9 cuts; leave it out"),
        ({"top_k": 5}, "trainer.top_k: .*leave it out"),
        ({"repetition_penalty": 1.2}, "trainer.repetition_penalty: .*leave it out"),
    ],
)
def test_settings_that_would_mean_something_else_are_refused(
    trained, distillation, config, message
):
    with pytest.raises(InputError, match=message):
        trained(distillation(), **config)


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_estimators_of_the_wrong_gradient_are_refused(trained, distillation, name):
    with pytest.raises(InputError, match=f"kd.estimator: {name} as a loss is refused"):
        trained(distillation(estimator=name))


def test_a_reward_that_is_not_there_cannot_say_what_is_right(trained, distillation):
    with pytest.raises(InputError, match=r"kd.correct_reward: there are 1 rewards"):
        trained(distillation(correct_reward=1))


def test_a_trl_without_one_of_the_methods_is_refused_with_its_version(monkeypatch):
    monkeypatch.setattr(GRPOTrainer, "_compute_loss", lambda self, batch: None)
    monkeypatch.setattr(trl_compat.trl, "__version__", "1.99")
    with pytest.raises(LlmkdError, match=r"trl 1\.99 .*_compute_loss has no model, inputs"):
        trl_compat.check_methods()


def test_a_trl_that_scores_the_policy_twice_is_refused_in_the_first_step(
    trained, distillation, monkeypatch
):
    loss = GRPOTrainer._compute_loss

    def twice(self, model, inputs):
        loss(self, model, inputs)
        return loss(self, model, inputs)

    monkeypatch.setattr(GRPOTrainer, "_compute_loss", twice)
    with pytest.raises(LlmkdError, match="scored the policy 2 times"):
        trained(distillation())


def test_a_trl_whose_rollouts_have_other_names_is_refused(trained, distillation, monkeypatch):
    generate = GRPOTrainer._generate_and_score_completions

    def renamed(self, inputs):
        rollouts = generate(self, inputs)
        return {key.replace("completion_mask", "mask"): x for key, x in rollouts.items()}

    monkeypatch.setattr(GRPOTrainer, "_generate_and_score_completions", renamed)
    with pytest.raises(LlmkdError, match="its rollouts have no completion_mask"):
        trained(distillation())


def test_training_leaves_the_teacher_as_it_was(trained, distillation, teacher):
    before = copy.deepcopy(teacher.model.state_dict())
    trained(distillation(estimator="full_vocabulary"))
    for name, weight in teacher.model.state_dict().items():
        assert torch.equal(weight, before[name])
