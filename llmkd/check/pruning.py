"""What is known of a prune stage before it runs, and of the model that it makes."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmkd.check.adapters import look_at_adapter
from llmkd.check.architectures import shape_of
from llmkd.check.config_fields import with_defaults
from llmkd.check.facts import Fact, StageFacts, known, value_of
from llmkd.check.kinds import head_problem
from llmkd.check.lengths import BadSourcesError, data_facts
from llmkd.check.memory import generate_memory
from llmkd.check.models import Model
from llmkd.check.row_facts import DataFacts
from llmkd.errors import DataError
from llmkd.pruning.architectures import ARCHITECTURES, not_known
from llmkd.pruning.fields import fields_after, size_problems, too_few_rows
from llmkd.recipe.data import Classification
from llmkd.recipe.places import Problem
from llmkd.recipe.pruning import PruneStage
from llmkd.recipe.yaml_places import Key

if TYPE_CHECKING:
    from llmkd.check.stages import Checker

NO_ROWS = Fact(0, "exact", "nothing is measured")


def pruned(model: Model, stage: PruneStage) -> Model:
    """A model as a prune stage leaves it.

    Args:
        model: Before.
        stage: One that asks for more than the model has is refused elsewhere; here it changes nothing.
    """
    if isinstance(model.shape, str) or model.config.get("model_type") not in ARCHITECTURES:
        if model.parameters.value is None:
            return model
        most = replace(model.parameters, exactness="at most")
        return replace(model, parameters=most, trainable=most)
    config = with_defaults(str(model.config["model_type"]), model.config)
    if any(True for _ in size_problems(config, stage)):
        return model
    config = {**config, **fields_after(config, **_cuts(stage))}
    shape = shape_of(config).with_vocabulary(model.shape.vocab_size)
    parameters = Fact(shape.num_parameters, "exact", "by formula, pruned")
    return replace(model, shape=shape, parameters=parameters, trainable=parameters, config=config)


def _cuts(stage: PruneStage) -> dict[str, Any]:
    """Sizes as `fields_after` takes them; which layers go makes no difference to the others."""
    depth, width = stage.depth, stage.width
    removed = [] if depth is None else depth.layers or range(depth.remove_layers or 0)
    sizes = {} if width is None else width.model_dump()
    return {"removed": removed, **sizes}


def prune_facts(checker: "Checker", name: str, stage: PruneStage) -> StageFacts:
    """Parameters before and after, the calibration set, and the memory of reading it."""
    found, key = StageFacts(stage.kind), ("stages", name)
    model, after = checker.models.of(stage.model), checker.models.student_of(name)
    found.problems += _model_problems(model, stage, key)
    look_at_adapter(found, key, stage.model, role="model")
    data = _data(checker, found, name, stage, model)
    found.facts |= {
        "parameters before": model.parameters,
        "parameters after": after.parameters,
        "rows": data.rows,
        "longest row": data.longest,
        "memory": known(lambda: _memory(stage, model, data)),
        "disk": known(lambda: _disk(after)),
    }
    checker.judge(found, checker.memory(), stage)
    if stage.width is not None and stage.width.num_key_value_heads is not None:
        found.warnings += _of_vllm(model)
    return found


def _model_problems(model: Model, stage: PruneStage, key: Key) -> list[Problem]:
    place = (*key, "model", "model_name_or_path")
    model_type = model.config.get("model_type")
    if problems := head_problem(place, model, is_classifier=False):
        return problems
    if model_type is None:
        return []
    if model_type not in ARCHITECTURES:
        return [Problem(place, not_known(model_type))]
    if isinstance(model.shape, str):
        return []
    config = with_defaults(model_type, model.config)
    return [Problem((*key, *field), text) for field, text in size_problems(config, stage)]


def _data(
    checker: "Checker", found: StageFacts, name: str, stage: PruneStage, model: Model
) -> DataFacts:
    """The calibration set; what is wrong with it goes to the problems."""
    place = ("stages", name, "data")
    if stage.data is None:
        return DataFacts(*[NO_ROWS] * 4)
    assert not isinstance(stage.data, Classification)
    try:
        data = data_facts(stage.data, model.tokenizer, checker.generated_by)
    except DataError as error:
        errors = [error]
    except BadSourcesError as error:
        errors = error.errors
    else:
        found.problems += _too_few(data.rows, stage, ("stages", name))
        return data
    found.problems += [Problem((*place, *error.key), error.message) for error in errors]
    return DataFacts(*[Fact(None, "not known", "the data cannot be used as it is")] * 4)


def _too_few(rows: Fact, stage: PruneStage, key: Key) -> list[Problem]:
    if rows.exactness not in ("exact", "at most") or value_of(rows) >= stage.num_examples:
        return []
    message = too_few_rows(int(value_of(rows)), stage.num_examples)
    return [Problem((*key, "num_examples"), message)]


def _memory(stage: PruneStage, model: Model, data: DataFacts) -> Fact:
    longest = Fact(value_of(data.longest), "at most")
    memory = generate_memory(model, stage.batch_size, longest)
    return replace(memory, exactness="at most", how="as for generation, whose cache is not needed")


def _disk(after: Model) -> Fact:
    size = value_of(after.parameters) * after.bytes_per_parameter
    return Fact(size, after.parameters.exactness, "the pruned weights", "bytes")


def _of_vllm(model: Model) -> list[str]:
    architecture = ARCHITECTURES.get(str(model.config.get("model_type")))
    if architecture is None or not architecture.is_head_dim_derived:
        return []
    return [
        f"vLLM takes the width of a {model.config['model_type']}'s heads from its number of heads, and "
        "cannot load it with fewer of them (transformers can); leave out width.num_key_value_heads to "
        "serve it there"
    ]
