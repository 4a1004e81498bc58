"""From a kdrl stage's objective to what its trainer adds to GRPO."""

from llmkd.recipe.kdrl import KDRL, Imitation, KDRLStage
from llmkd.recipe.reward_checks import correct_reward
from llmkd.teachers.rollouts import RolloutTeacher
from llmkd.training.kdrl_trainer import Distillation
from llmkd.training.phases import Phases


def build_distillation(stage: KDRLStage, teacher: RolloutTeacher, phases: Phases) -> Distillation:
    """The distillation term, with its weights as functions of the step.

    Args:
        stage: With a teacher.
        teacher: The same, built.
        phases: Which has the weights.
    """
    objective = stage.objective
    assert isinstance(objective, Imitation), "refused by the recipe"
    mask = objective.mask if isinstance(objective, KDRL) else "none"
    return Distillation(
        teacher,
        coefficient=phases.coefficient,
        estimator=objective.estimator,
        mask=mask,
        correct_reward=0 if mask == "none" else correct_reward(stage.reward_funcs, stage.correct),
        reward_weight=phases.reward_weight,
    )
