"""The page that lists every recipe key, made from the schema: `python -m llmkd.recipe.reference`.

It writes docs/recipe.md and docs/recipe.schema.json; a test compares them with what it would write.
"""

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from llmkd.recipe.json_schema import TRAINER, Schema, recipe_schema
from llmkd.recipe.schema import STAGE_MODELS
from llmkd.recipe.training_arguments import DEFAULTS, OWNED

PAGE, SCHEMA = "recipe.md", "recipe.schema.json"

HEADING = """\
# Every recipe key

Made from the schema by `make docs`; do not edit. `llmkd check RECIPE` prints a recipe with all of these
filled in and says where each value comes from: a line of the file, an override, or the default.

A recipe has `stages:`, a mapping from name to stage, run in the order written; or it has one stage,
whose keys then stand at the top beside `name`. A stage names an earlier one's product as
`stage:NAME`. A union is told apart by `kind`, which may be left out where it has a default.

Overrides follow the recipe: `llmkd train RECIPE stages.student.losses.0.weight=0.5`. Unquoted values are
read by YAML 1.2: `1e-4` is a number, `010` is ten, `on` and `12:30` are text.

An editor with the YAML language server completes and checks keys when this is a recipe's first line,
with the path of the file that `llmkd check --schema > recipe.schema.json` writes:

```yaml
# yaml-language-server: $schema=recipe.schema.json
```
"""

# The order of the page: heading -> parts of the schema under it.
SECTIONS = {
    "The recipe": ["Recipe"],
    "Stages": [model.__name__ for model in STAGE_MODELS],
    "Students and teachers": [
        "PretrainedStudent", "ScratchStudent", "LoraConfig", "InProcessTeacher", "StoreTeacher", "ServerTeacher", "PretrainedModel",
    ],
    "Rewards and a teacher on the student's own responses": [
        "GRPO", "OPD", "KDRL", "OPDThenRL", "SwitchAtStep", "SwitchAtPlateau", "Validation", "Guard", "RolloutModel", "RolloutServer", "RoutedTeacher",
        "AnswerReward", "MultipleChoiceReward", "FormatReward", "LengthReward", "FunctionReward",
    ],
    "Data": [
        "DatasetSource", "AdditionTask", "IntentTask", "NamedIntentTask", "ChainedSumsTask", "LabelledRows", "Mixture", "MixedDataset", "MixedTask", "StoreRows", "PromptRows", "PromptTask", "NamedIntentPrompts", "TextSource",
    ],
    "Losses": [
        "CrossEntropyTerm", "LabelMSETerm", "ForwardKLTerm", "ReverseKLTerm", "JSDTerm", "SkewForwardKLTerm",
        "SkewReverseKLTerm", "TotalVariationTerm", "AdaptiveKLTerm", "ToDiTerm", "NKDTerm",
        "LogitMSETerm", "SinkhornTerm", "SinkhornPaperTerm", "LinearSchedule", "CosineSchedule",
        "KeptFraction",
    ],
    "Teacher data": [
        "Generation", "TopKCapture", "SampledCapture", "TransformersEngine", "VLLMEngine", "ServerEngine",
    ],
    "Curation": [
        "CuratedRows", "Concatenation", "RowsMixture", "WeightedRows", "PromptStep", "VerifyStep", "VerifyCommandStep", "VoteStep",
        "LengthStep", "RepetitionStep", "DuplicatesStep", "ContaminationStep", "RewriteStep", "SelectStep",
        "ExtractStep",
    ],
    "Pruning": ["PrunedModel", "DepthPruning", "WidthPruning"],
    "Merging": ["Slerp", "Linear", "TaskArithmetic"],
    "Evaluation": [
        "Suite", "ExactMatchTask", "PerplexityTask", "ClassificationTask", "OODTask", "LMEvalTask",
        "HarnessRows", "AgreementTask", "DraftTask", "CostTask",
    ],
}  # fmt: skip


def reference() -> str:
    """The page, in Markdown."""
    parts: dict[str, Schema] = recipe_schema()["$defs"]
    listed = [name for names in SECTIONS.values() for name in names]
    others = sorted(
        name
        for name in parts
        if name not in listed and name != TRAINER and not name.startswith("One")
    )
    sections = {**SECTIONS, **({"Further parts": others} if others else {})}
    lines = [HEADING]
    for heading, names in sections.items():
        lines.append(f"## {heading}\n")
        for name in names:
            if name in parts:
                lines.extend(_part(name, parts[name]))
    return "\n".join([*lines, *_trainer(parts[TRAINER])])


def write(folder: Path) -> None:
    """Writes the page and the schema into a folder."""
    (folder / PAGE).write_text(reference(), encoding="utf-8")
    schema = json.dumps(recipe_schema(), indent=2, ensure_ascii=False) + "\n"
    (folder / SCHEMA).write_text(schema, encoding="utf-8")


def _part(name: str, part: Schema) -> Iterable[str]:
    yield f"### {_title(name)}\n"
    if "description" in part:
        yield _said(part["description"]) + "\n"
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    required = part.get("required", [])
    fields = part.get("properties", {})
    # `kind` comes first: it says which table one is in.
    for key, field in sorted(fields.items(), key=lambda item: item[0] != "kind"):
        default = "required" if key in required else _default(field)
        yield f"| `{key}` | {_type(field)} | {default} | {_said(field.get('description', ''), in_table=True)} |"
    yield ""


def _trainer(trainer: Schema) -> Iterable[str]:
    yield "## trainer\n"
    yield (
        "The names of `transformers.TrainingArguments`, as they are in the tested version of transformers; its own\n"
        "[documentation](https://huggingface.co/docs/transformers/main_classes/trainer) says what each does.\n"
    )
    yield "| key | type | default |"
    yield "|---|---|---|"
    for name, field in trainer["properties"].items():
        mark = " (llmkd's)" if name in DEFAULTS else ""
        yield f"| `{name}` | {_type(field)} | {_default(field)}{mark} |"
    yield "\n### Arguments that are not taken, and what to write instead\n"
    yield "| argument | instead |"
    yield "|---|---|"
    for name, instead in OWNED.items():
        yield f"| `{name}` | {_said(instead, in_table=True)} |"
    yield ""


def _title(name: str) -> str:
    """`ForwardKLTerm` as `Forward KL term`."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]*", name)
    rest = (word if word.isupper() else word.lower() for word in words[1:])
    return " ".join([words[0], *rest])


def _type(field: Schema) -> str:
    """A field's type in words; other parts of the schema by link."""
    if "$ref" in field:
        title = _title(field["$ref"].rpartition("/")[2])
        return f"[{title}](#{title.lower().replace(' ', '-')})"
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{word}`" for word in field["enum"])
    for union in ("oneOf", "anyOf"):
        if union in field and "type" not in field:
            return " or ".join(dict.fromkeys(_type(member) for member in field[union]))
    return _plain_type(field)


def _plain_type(field: Schema) -> str:
    kind = field.get("type", "any")
    if isinstance(kind, list):
        return " or ".join(_plain_type({"type": name}) for name in kind)
    inside = field.get("items") or field.get("additionalProperties")
    if not isinstance(inside, dict):
        inside = next(iter(field.get("patternProperties", {}).values()), None)
    words = {"string": "text", "array": "list", "object": "mapping", "boolean": "true or false"}
    word = words.get(kind, kind)
    return (
        f"{word} of {_type(inside)}"
        if isinstance(inside, dict) and inside
        else f"{word}{_range(field)}"
    )


def _range(field: Schema) -> str:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {field[key]:g}" for key, sign in signs.items() if key in field]
    return f", {', '.join(limits)}" if limits else ""


def _default(field: Schema) -> str:
    if "default" not in field:
        return ""
    return f"`{_cell(json.dumps(field['default'], ensure_ascii=False))}`"


def _said(text: str, *, in_table: bool = False) -> str:
    text = re.sub(r"\s+", " ", text) if in_table else text
    return _cell(text) if in_table else text


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(arguments: list[str]) -> None:
    """Writes both files into `docs/`, or into the folder that is named."""
    write(Path(arguments[0]) if arguments else Path(__file__).parents[2] / "docs")


if __name__ == "__main__":
    main(sys.argv[1:])
