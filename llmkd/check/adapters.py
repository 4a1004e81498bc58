"""A teacher's LoRA adapter before it is loaded: whether it is one, its rank, and whose it is."""

import math
from pathlib import Path
from typing import Any

from llmkd.check.facts import Fact, NotKnownError, StageFacts, known
from llmkd.check.weights import Shapes, header_of, model_folder, read_json, shapes_in
from llmkd.models.adapter_configs import CONFIG, Config, beyond_vllm, largest_rank, no_lora
from llmkd.recipe.adapter_checks import FIELD
from llmkd.recipe.local_paths import expanded, is_there
from llmkd.recipe.models import PretrainedModel
from llmkd.recipe.places import Problem
from llmkd.recipe.teacher_data import Engine, VLLMEngine
from llmkd.recipe.yaml_places import Key

WEIGHTS = "adapter_model.safetensors"
SHARED = ("lm_head", "embed_tokens")
"""Layers that a checkpoint may hold once for two."""


def look_at_adapter(
    found: StageFacts,
    key: Key,
    teacher: PretrainedModel | None,
    engine: Engine | None = None,
    role: str = "teacher",
) -> None:
    """Adds what is known of a teacher's adapter, and what is wrong with it, to a stage's facts.

    Args:
        found: Of the stage.
        key: The stage's.
        teacher: None where the stage has none here.
        engine: What runs it, where the recipe says.
        role: The field that names the teacher; `model` of a stage that has none.
    """
    if teacher is None or teacher.adapter_name_or_path is None:
        return
    name = teacher.adapter_name_or_path
    try:
        folder = model_folder(name, None)
        if problem := _what_is_wrong(folder, teacher, engine):
            found.problems.append(Problem((*key, role, FIELD), f"{name} {problem}"))
            return
        config = _config(folder)
    except NotKnownError as error:
        found.facts[f"{role} adapter"] = Fact(None, "not known", str(error))
        return
    found.facts[f"{role} adapter"] = known(lambda: _parameters(folder, config))
    _warn_of_other_name(found, config, teacher)


def _what_is_wrong(folder: Path, teacher: PretrainedModel, engine: Engine | None) -> str | None:
    if not (folder / CONFIG).is_file():
        if (folder / "config.json").is_file():
            return "is a whole model; write it as model_name_or_path, and no adapter"
        return f"has no {CONFIG}; write a folder that peft's save_pretrained made"
    config = _config(folder)
    return (
        no_lora(config)
        or (beyond_vllm(config) if isinstance(engine, VLLMEngine) else None)
        or _other_shapes(folder, teacher)
    )


def _config(folder: Path) -> Config:
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict):
        raise NotKnownError(f"{folder / CONFIG}: no configuration; copy the adapter anew")
    return config


def _parameters(folder: Path, config: Config) -> Fact:
    sizes = [math.prod(shape) for _, shape in header_of(folder / WEIGHTS).values()]
    return Fact(sum(sizes), "exact", f"parameters of rank {largest_rank(config)}")


def _other_shapes(folder: Path, teacher: PretrainedModel) -> str | None:
    """What is wrong with an adapter whose weights do not go with its model's, as far as files tell."""
    try:
        base = shapes_in(model_folder(teacher.model_name_or_path, teacher.revision))
        wanted = _adapted(header_of(folder / WEIGHTS))
    except NotKnownError:
        return None
    there = {module: base.get(f"{module}.weight", (None, None))[1] for module in wanted}
    if not any(there.values()):
        # The files may have other names than the layers, as some checkpoints do.
        return None
    for module, sides in wanted.items():
        shape = there[module]
        if shape is None and module.endswith(SHARED):
            continue
        if shape is None or sorted(shape) != sorted(sides):
            has = "no such layer" if shape is None else f"one of {shape[1]} to {shape[0]}"
            return (
                f"is of another model: it adapts {module}, of {sides[1]} inputs and {sides[0]} outputs, "
                f"and {teacher.model_name_or_path} has {has}; write the model that it was trained on"
            )
    return None


def _adapted(shapes: Shapes) -> dict[str, list[int]]:
    """Outputs and inputs of each layer that an adapter's weights go with."""
    sides: dict[str, list[int]] = {}
    for name, (_, shape) in shapes.items():
        module, _, part = name.removeprefix("base_model.model.").partition(".lora_")
        if part in ("A.weight", "B.weight") and len(shape) == 2:
            both = sides.setdefault(module, [0, 0])
            both[part[0] == "A"] = shape[part[0] == "A"]
    return sides


def _warn_of_other_name(found: StageFacts, config: Config, teacher: PretrainedModel) -> None:
    written: Any = config.get("base_model_name_or_path")
    names = (written, teacher.model_name_or_path)
    are_of_hub = all(isinstance(name, str) and not is_there(expanded(name)) for name in names)
    if are_of_hub and names[0] != names[1]:
        found.warnings.append(
            f"the adapter {teacher.adapter_name_or_path} was trained on {written}, and the teacher is "
            f"{teacher.model_name_or_path}; change teacher.model_name_or_path if they are not the same"
        )
