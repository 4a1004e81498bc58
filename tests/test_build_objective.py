"""From a recipe's terms to the losses that they name."""

import pytest
import torch

from llmkd.build_objective import build_objective
from llmkd.losses import divergences as d
from llmkd.losses.signals import LinearHead
from llmkd.recipe.schema import TrainStage

# Options that are not the defaults, so that one that gets lost is seen.
TEACHER_TERMS = {
    "forward_kl": (d.forward_kl, {}),
    "reverse_kl": (d.reverse_kl, {}),
    "jsd": (d.jsd, {"teacher_weight": 0.2}),
    "skew_forward_kl": (d.skew_forward_kl, {"alpha": 0.3}),
    "skew_reverse_kl": (d.skew_reverse_kl, {"alpha": 0.3}),
    "total_variation": (d.total_variation, {}),
    "adaptive_kl": (d.adaptive_kl, {"head_mass": 0.8}),
    "todi": (d.todi, {}),
}


def loss_and_gradient(term: dict) -> tuple[torch.Tensor, ...]:
    """Of an objective with that term alone; then the logits and labels that it was given."""
    stage = TrainStage.model_validate(
        {
            "kind": "train",
            "student": {"kind": "scratch", "config": {"model_type": "llama"}},
            "teacher": {"model_name_or_path": "hub/teacher"},
            "data": {"kind": "task", "task": "addition", "num_examples": 10},
            "losses": [term],
        }
    )
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 11, generator=generator, dtype=torch.float64)
    ids = torch.randint(11, (6,), generator=generator)
    student.requires_grad_()
    objective = build_objective(stage, max_steps=1, compute_dtype=None)
    identity = torch.eye(11, dtype=torch.float64)
    output = objective(
        LinearHead(student, identity),
        LinearHead(teacher, identity),
        ids,
        num_positions=torch.tensor([6, 6]),
        step=0,
    )
    (gradient,) = torch.autograd.grad(output.loss, student)
    return output.loss, gradient, student, teacher, ids


def agree(loss: torch.Tensor, gradient: torch.Tensor, mean: torch.Tensor, logits: torch.Tensor):
    torch.testing.assert_close(loss, mean.detach(), check_dtype=False)
    torch.testing.assert_close(gradient, torch.autograd.grad(mean, logits)[0])


@pytest.mark.parametrize("kind", TEACHER_TERMS)
@pytest.mark.parametrize("scaling", ["squared", "none"])
def test_a_term_with_a_teacher_is_the_divergence_of_its_name(kind, scaling):
    divergence, options = TEACHER_TERMS[kind]
    term = {"kind": kind, "temperature": 2.0, "temperature_scaling": scaling, **options}
    loss, gradient, student, teacher, _ = loss_and_gradient(term)
    mean = divergence(student, teacher, temperature=2.0, **options).mean()
    agree(loss, gradient, mean * (4 if scaling == "squared" else 1), student)


def test_cross_entropy_takes_the_labels():
    loss, gradient, student, _, ids = loss_and_gradient({"kind": "cross_entropy"})
    agree(loss, gradient, d.cross_entropy(student, ids).mean(), student)


def test_nkd_multiplies_by_temperature_squared_once():
    options = {"temperature": 2.0, "non_target_weight": 0.7}
    loss, gradient, student, teacher, ids = loss_and_gradient({"kind": "nkd", **options})
    agree(loss, gradient, d.nkd(student, teacher, ids, **options).mean(), student)


def test_logit_mse_compares_the_logits_themselves():
    loss, gradient, student, teacher, _ = loss_and_gradient({"kind": "logit_mse"})
    agree(loss, gradient, d.logit_mse(student, teacher).mean(), student)
