"""KDRL against TRL's own GRPO, and its distillation term against dense logits."""

import pytest
import torch
from torch.testing import assert_close
from trl import GRPOTrainer

ACCUMULATED = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
ADAMW = {"optim": "adamw_torch", "learning_rate": 1e-2, "max_steps": 3, "max_grad_norm": 1.0}


def logged(trainer, key):
    return [line[key] for line in trainer.state.log_history if key in line]


def total(left, right):
    return {name: left[name] + right[name] for name in left}


@pytest.mark.parametrize("coefficient", [None, 0.0])
def test_without_distillation_it_is_grpo_bit_for_bit(trained, distillation, coefficient):
    ours = trained(None if coefficient is None else distillation(coefficient), **ADAMW)
    theirs = trained(kind=GRPOTrainer, **ADAMW)
    assert max(logged(theirs, "grad_norm")) > 0
    for key in ("loss", "grad_norm", "reward", "entropy"):
        assert logged(ours, key) == logged(theirs, key)
    for mine, other in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_at_reward_weight_0_it_is_distillation_on_the_rollouts_alone(
    trained, distillation, gradients, by_hand
):
    trainer = trained(distillation(reward_weight=0.0))
    assert_close(gradients(trainer), by_hand(trainer.seen), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("loss_type", ["dapo", "bnpo", "dr_grpo", "grpo"])
def test_the_term_is_a_mean_over_the_whole_batch_whatever_grpo_divides_by(
    trained, distillation, gradients, by_hand, loss_type
):
    ours = trained(distillation(mask="response"), loss_type=loss_type, **ACCUMULATED)
    grpo = trained(loss_type=loss_type, **ACCUMULATED)
    expected = total(gradients(grpo), by_hand(ours.seen, mask="response"))
    assert_close(gradients(ours), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mask", ["none", "response", "group"])
def test_micro_batches_change_nothing_under_any_mask(
    trained, distillation, gradients, by_hand, mask
):
    kd = distillation(reward_weight=0.0, mask=mask)
    whole, cut = trained(kd), trained(kd, **ACCUMULATED)
    assert len(cut.seen) == 4
    assert_close(gradients(whole), gradients(cut), atol=1e-5, rtol=1e-4)
    assert_close(gradients(cut), by_hand(cut.seen, mask=mask), atol=1e-5, rtol=1e-4)


def test_masks_keep_what_their_names_say(trained, distillation):
    shares = {
        mask: logged(trained(distillation(mask=mask)), "kd/responses")[0]
        for mask in ("none", "response", "group")
    }
    assert shares["none"] == 1.0
    assert shares["none"] > shares["response"] > shares["group"]


@pytest.mark.parametrize("name", ["corrected_k3", "advantage"])
def test_forms_of_the_drawn_tokens_have_the_same_gradient_on_policy(
    trained, distillation, gradients, name
):
    of_k2 = gradients(trained(distillation(estimator="k2")))
    found = gradients(trained(distillation(estimator=name)))
    assert_close(found, of_k2, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("cut", [{}, ACCUMULATED], ids=["whole", "accumulated"])
def test_the_full_vocabulary_is_that_of_dense_logits(
    trained, distillation, gradients, by_hand, cut, tokenizer
):
    def reverse_kl(student, teacher, _):
        student = student[..., : len(tokenizer)].log_softmax(-1)
        return (student.exp() * (student - teacher)).sum(-1)

    kd = distillation(reward_weight=0.0, estimator="full_vocabulary", mask="response")
    trainer = trained(kd, **cut)
    expected = by_hand(trainer.seen, mask="response", term=reverse_kl)
    assert_close(gradients(trainer), expected, atol=1e-5, rtol=1e-4)


def test_a_step_that_takes_half_a_generation_divides_by_half_its_tokens(
    trained, distillation, gradients, by_hand
):
    halves = {"per_device_train_batch_size": 4, "steps_per_generation": 2}
    trainer = trained(distillation(reward_weight=0.0), **halves)
    assert len(trainer.seen) == 1
    half = trainer.seen[0][1]["num_items_in_batch"].item() / 2
    expected = by_hand(trainer.seen, share=half)
    assert_close(gradients(trainer), expected, atol=1e-5, rtol=1e-4)


def test_a_second_update_on_the_same_rollouts_has_the_ratio_to_the_first(
    trained, distillation, gradients, by_hand
):
    config = {"num_iterations": 2, "max_steps": 2, "learning_rate": 0.1}
    trainer = trained(distillation(reward_weight=0.0), **config)
    first, second = ([seen] for seen in trainer.seen)
    steps = total(by_hand(first), by_hand(second))
    expected = {name: 0.1 * step for name, step in steps.items()}
    assert_close(gradients(trainer), expected, atol=1e-5, rtol=1e-4)


def test_on_old_rollouts_the_full_vocabulary_takes_no_ratio(
    trained, distillation, gradients, by_hand
):
    config = {"num_iterations": 2, "max_steps": 2, "learning_rate": 0.1}
    kd = distillation(reward_weight=0.0, estimator="full_vocabulary")
    trainer = trained(kd, **config)
    assert trainer.seen[1][1]["old_per_token_logps"] is not None

    def reverse_kl(student, teacher, _):
        return (student.exp() * (student - teacher)).sum(-1)

    steps = total(*(by_hand([seen], term=reverse_kl) for seen in trainer.seen))
    expected = {name: 0.1 * step for name, step in steps.items()}
    assert_close(gradients(trainer), expected, atol=1e-5, rtol=1e-4)


def test_beside_dr_grpo_a_coefficient_weighs_the_greatest_length_by_the_mean_one_as_much(
    trained, distillation, gradients
):
    rollouts = trained(distillation(), loss_type="dapo").seen[0][1]
    mean_length = rollouts["kd_count"].item() / len(rollouts["kd_tokens"])
    assert rollouts["kd_count"] == rollouts["num_items_in_batch"]
    of_rewards, smaller = (gradients(trained(loss_type=name)) for name in ("dapo", "dr_grpo"))
    expected = {name: x * mean_length / 6 for name, x in of_rewards.items()}
    assert 1 < mean_length < 6
    assert_close(smaller, expected, atol=1e-6, rtol=1e-5)
