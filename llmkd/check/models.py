"""What is known of a recipe's models and tokenizers without loading them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, assert_never

from llmkd.check.architectures import Shape, num_lora_parameters, shape_of
from llmkd.check.classifiers import classifier_shape_of
from llmkd.check.facts import Fact, NotKnownError, known
from llmkd.check.labels import checked_labels
from llmkd.check.seq2seq import NO_SHAPE, is_seq2seq, num_seq2seq_parameters, reading_as
from llmkd.check.vocabulary import Tokenizer, read_tokenizer, tokenizer_of_task
from llmkd.check.weights import Weights, model_folder, read_json, read_weights
from llmkd.data.labels import has_classifier_head, names_in_config
from llmkd.errors import DataError
from llmkd.models.adapter_configs import base_of
from llmkd.recipe.base import referenced_stage
from llmkd.recipe.data import Classification, StoreRows, Task
from llmkd.recipe.local_paths import expanded
from llmkd.recipe.models import (
    InProcessTeacher,
    PretrainedModel,
    PretrainedStudent,
    ScratchStudent,
    ServerTeacher,
    StoreTeacher,
)
from llmkd.recipe.procedural import TaskRowsStage
from llmkd.recipe.schema import (
    KDRLStage,
    MergeStage,
    PruneStage,
    Recipe,
    TeacherDataStage,
    TrainStage,
)
from llmkd.teacher_data.places import tokenizer_folder

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}

T = TypeVar("T")


@dataclass(frozen=True)
class Model:
    """A model before it is loaded. Text in place of a value says why there is none."""

    name: str
    """As the recipe names it."""
    parameters: Fact
    trainable: Fact
    shape: Shape | str
    tokenizer: Tokenizer | str
    num_embeddings: int | None
    """Rows of the output head."""
    bytes_per_parameter: int
    """Of the weights in memory."""
    labels: list[str] | str | None = None
    """Of a classifier's outputs, in their order; None of a language model."""
    is_seq2seq: bool | None = None
    """Whether it has an encoder and a decoder; None where that is not known."""
    is_classifier: bool | None = None
    """Whether it has a trained classification head; None where that is not known."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Empty where it is not known."""


class Models:
    """A recipe's models, each looked at once.

    Args:
        recipe: Its stages are to be asked for in the order written, as they refer to earlier ones.
    """

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self._students: dict[str, Model] = {}
        self._tokenizers: dict[tuple[str, str | None], Tokenizer | str] = {}
        self._folders: dict[tuple[str, str | None], Model] = {}

    def student_of(self, stage_name: str) -> Model:
        """The student of a train stage, as it is trained; what a prune or merge stage makes."""
        if stage_name not in self._students:
            stage = self.recipe.stages[stage_name]
            if isinstance(stage, PruneStage):
                model = self._pruned(stage)
            elif isinstance(stage, MergeStage):
                model = self.merged_from(next(iter(stage.inputs.values())))
            elif isinstance(stage, KDRLStage):
                model = self._pretrained(stage.student, None)
            else:
                assert isinstance(stage, TrainStage)
                model = self._trained(stage)
            self._students[stage_name] = model
        return self._students[stage_name]

    def _trained(self, stage: TrainStage) -> Model:
        labels = self._labels_or_why(stage)
        if isinstance(stage.student, ScratchStudent):
            model = self._scratch(stage, stage.student, labels)
        else:
            model = self._pretrained(stage.student, labels)
        return _with_template(model, stage)

    def of(self, source: PretrainedModel) -> Model:
        """A model that is loaded: from a folder, the hub's cache, or an earlier stage."""
        stage_name = referenced_stage(source.model_name_or_path)
        if stage_name is None:
            return self._local(source)
        student = self.student_of(stage_name)
        width = DTYPE_BYTES.get(source.dtype, student.bytes_per_parameter)
        return replace(_saved(student), name=source.model_name_or_path, bytes_per_parameter=width)

    def merged_from(self, name: str) -> Model:
        """A model that a merge stage names, as its files are: of an adapter, the model under it."""
        source = base_of(expanded(name)) or name
        return self.of(PretrainedModel(model_name_or_path=source, dtype="auto"))

    def labels_of(self, stage: TrainStage) -> list[str]:
        """What the outputs of a stage's classifier will stand for.

        Raises:
            NotKnownError: It cannot be known yet.
            DataError: The labels of models and rows do not fit each other.
        """
        assert isinstance(stage.data, Classification)
        teacher = None if stage.local_teacher is None else self.of(stage.local_teacher).labels
        if isinstance(teacher, str):
            raise NotKnownError(teacher)
        source = stage.student
        student = self.of(source).labels if isinstance(source, PretrainedStudent) else None
        return checked_labels(stage.data, teacher, None if isinstance(student, str) else student)

    def _labels_or_why(self, stage: TrainStage) -> list[str] | str | None:
        if not isinstance(stage.data, Classification):
            return None
        try:
            return _or_why(lambda: self.labels_of(stage))
        except DataError as error:
            return str(error)

    def tokenizer_of(self, name: str, revision: str | None = None) -> Tokenizer | str:
        """The tokenizer of a model, or why it is not known."""
        stage_name = referenced_stage(name)
        if stage_name is not None:
            stage = self.recipe.stages[stage_name]
            if isinstance(stage, TaskRowsStage):
                return tokenizer_of_task(stage.data)
            return self.student_of(stage_name).tokenizer
        key = (name, revision)
        if key not in self._tokenizers:
            self._tokenizers[key] = _or_why(lambda: read_tokenizer(model_folder(name, revision)))
        return self._tokenizers[key]

    def tokenizer_of_store(self, path: str) -> Tokenizer | str:
        """The tokenizer that a store was made with, or is going to be."""
        stage_name = referenced_stage(path)
        if stage_name is None:
            return self.tokenizer_of(str(tokenizer_folder(path)))
        stage = self.recipe.stages[stage_name]
        assert isinstance(stage, TeacherDataStage)
        return self.tokenizer_of(stage.teacher.model_name_or_path, stage.teacher.revision)

    def _tokenizer_for(self, stage: TrainStage, student: ScratchStudent) -> Tokenizer | str:
        if student.tokenizer_name_or_path is not None:
            return self.tokenizer_of(student.tokenizer_name_or_path)
        match stage.teacher:
            case InProcessTeacher() | ServerTeacher() as teacher:
                return self.tokenizer_of(teacher.model_name_or_path, teacher.revision)
            case StoreTeacher(path=path):
                return self.tokenizer_of_store(path)
            case None:
                pass
            case unknown:
                assert_never(unknown)
        if isinstance(stage.data, Task):
            return tokenizer_of_task(stage.data)
        return "a student from scratch needs a tokenizer"

    def _scratch(
        self, stage: TrainStage, student: ScratchStudent, labels: list[str] | str | None
    ) -> Model:
        tokenizer = self._tokenizer_for(stage, student)
        config = dict(student.config)
        if "vocab_size" not in config:
            config["vocab_size"] = None if isinstance(tokenizer, str) else tokenizer.size
        if config["vocab_size"] is None:
            shape: Shape | str = f"its vocabulary is not known: {tokenizer}"
            parameters = Fact(None, "not known", shape)
        else:
            how = f"by formula for {config.get('model_type')}"
            shape, parameters = _by_formula(config, labels, how)
        dtype = config.get("dtype")
        width = DTYPE_BYTES.get(dtype, 4) if isinstance(dtype, str) else 4
        return Model(
            "from scratch", parameters, parameters, shape, reading_as(tokenizer, config),
            None if parameters.value is None else config["vocab_size"], width, labels,
            is_seq2seq(config), labels is not None, config,
        )  # fmt: skip

    def _pretrained(self, student: PretrainedStudent, labels: list[str] | str | None) -> Model:
        model = self.of(student)
        if labels is not None:
            model = _as_classifier(model, labels)
        lora = student.lora
        if lora is None:
            return model

        def adapters() -> Fact:
            if isinstance(model.shape, str):
                raise NotKnownError(model.shape)
            count = num_lora_parameters(model.shape, lora.r, lora.target_modules)
            return Fact(count, "exact", f"adapters of rank {lora.r}, by formula")

        return replace(model, trainable=known(adapters))

    def _pruned(self, stage: PruneStage) -> Model:
        # Imported here, for it needs this module.
        from llmkd.check.pruning import pruned

        return pruned(self.of(stage.model), stage)

    def _local(self, source: PretrainedModel) -> Model:
        key = (source.model_name_or_path, source.revision)
        if key not in self._folders:
            self._folders[key] = self._read(*key)
        model = self._folders[key]
        width = DTYPE_BYTES.get(source.dtype, model.bytes_per_parameter)
        return replace(model, bytes_per_parameter=width)

    def _read(self, name: str, revision: str | None) -> Model:
        tokenizer = self.tokenizer_of(name, revision)
        config = _or_why(lambda: _config(model_folder(name, revision)))
        if isinstance(config, str):
            unknown = Fact(None, "not known", config)
            return Model(name, unknown, unknown, config, tokenizer, None, 4)
        labels = names_in_config(config) if has_classifier_head(config) else None
        weights = _or_why(lambda: read_weights(model_folder(name, revision), config))
        how = f"by formula for {config.get('model_type')}; {weights}"
        shape, parameters = _by_formula(config, labels, how)
        parameters = _counted(weights, parameters)
        return Model(
            name, parameters, parameters, shape, reading_as(tokenizer, config),
            _num_embeddings(weights, shape),
            weights.bytes_per_parameter if isinstance(weights, Weights) else 4, labels,
            is_seq2seq(config), has_classifier_head(config) if "architectures" in config else None,
            config,
        )  # fmt: skip


def _with_template(student: Model, stage: TrainStage) -> Model:
    """The student with the chat template that its data gives its tokenizer, or may give it."""
    tokenizer, data = student.tokenizer, stage.data
    given = isinstance(data, StoreRows) or getattr(data, "chat_template", None) is not None
    if isinstance(tokenizer, str) or not given:
        return student
    return replace(student, tokenizer=replace(tokenizer, has_chat_template=True))


def _shape(config: Mapping[str, Any], labels: list[str] | str | None) -> Shape | str:
    if isinstance(labels, str):
        return f"its labels are not known: {labels}"
    if labels is None:
        return _or_why(lambda: shape_of(config))
    return _or_why(lambda: classifier_shape_of(config, len(labels)))


def _as_classifier(model: Model, labels: list[str] | str) -> Model:
    """A pretrained model as the student of these labels: of other outputs, its head is new."""
    was = model.labels
    has_head = isinstance(was, list) and isinstance(labels, list) and len(was) == len(labels)
    if has_head or not model.config:
        return replace(model, labels=labels, is_classifier=True)
    shape, parameters = _by_formula(model.config, labels, "by formula, with a new head")
    return replace(
        model, labels=labels, shape=shape, parameters=parameters, trainable=parameters,
        is_classifier=True,
    )  # fmt: skip


def _saved(student: Model) -> Model:
    """A student as its `model/` holds it: adapters merged, embeddings that pad left out."""
    shape, tokenizer = student.shape, student.tokenizer
    is_padded = student.labels is None and (
        student.name == "from scratch"
        and student.num_embeddings is not None
        and not isinstance(tokenizer, str)
        and student.num_embeddings > tokenizer.size
    )
    if not is_padded:
        return replace(student, trainable=student.parameters)
    assert isinstance(tokenizer, Tokenizer)
    student = replace(student, config={**student.config, "vocab_size": tokenizer.size})
    if isinstance(shape, str):
        most = replace(student.parameters, exactness="at most")
        return replace(student, parameters=most, trainable=most, num_embeddings=tokenizer.size)
    cut = shape.with_vocabulary(tokenizer.size)
    parameters = replace(student.parameters, value=cut.num_parameters)
    return replace(
        student, shape=cut, parameters=parameters, trainable=parameters,
        num_embeddings=tokenizer.size,
    )  # fmt: skip


def _config(folder: Path) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise NotKnownError(f"{folder / 'config.json'}: no configuration; copy the model anew")
    return config


def _counted(weights: Weights | str, by_formula: Fact) -> Fact:
    if isinstance(weights, Weights):
        return Fact(weights.num_parameters, "exact", "counted in its safetensors files")
    return by_formula if by_formula.value is not None else Fact(None, "not known", weights)


def _num_embeddings(weights: Weights | str, shape: Shape | str) -> int | None:
    if isinstance(weights, Weights) and weights.num_embeddings is not None:
        return weights.num_embeddings
    return shape.vocab_size if isinstance(shape, Shape) else None


def _by_formula(
    config: Mapping[str, Any], labels: list[str] | str | None, how: str
) -> tuple[Shape | str, Fact]:
    """A model's shape, or why there is none, and its parameters."""
    if labels is None and is_seq2seq(config):
        return NO_SHAPE, known(lambda: Fact(num_seq2seq_parameters(config), "exact", how))
    shape = _shape(config, labels)
    if isinstance(shape, str):
        return shape, Fact(None, "not known", shape)
    return shape, Fact(shape.num_parameters, "exact", how)


def _or_why(compute: Callable[[], T]) -> T | str:
    """The value, or the reason why there is none."""
    try:
        return compute()
    except NotKnownError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
