import re
from pathlib import Path

from llmkd.recipe.json_schema import recipe_schema
from llmkd.recipe.reference import PAGE, reference, write
from llmkd.recipe.training_arguments import DEFAULTS, OWNED, training_arguments

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_beside_it_is_up_to_date():
    assert (DOCS / PAGE).read_text(encoding="utf-8") == reference(), "write it anew: make docs"


def test_it_lists_every_key_of_every_part_with_its_meaning():
    page = reference()
    for name, part in recipe_schema()["$defs"].items():
        if name == "Trainer":
            continue
        assert part.get("description"), name
        for key, field in part["properties"].items():
            assert f"| `{key}` |" in page
            assert "description" in field or key == "kind", f"{name}.{key} has no docstring"


def test_it_lists_every_training_argument_taken_or_not():
    page = reference()

    assert all(f"| `{name}` |" in page for name in training_arguments())
    assert all(instead in page for instead in OWNED.values())
    assert page.count("(llmkd's)") == len(DEFAULTS.keys() - OWNED.keys())


def test_every_link_leads_to_a_heading_of_the_page():
    page = reference()
    headings = {
        line.lstrip("# ").lower().replace(" ", "-")
        for line in page.splitlines()
        if line.startswith("#")
    }

    links = set(re.findall(r"\]\(#([^)]*)\)", page))
    assert len(links) > 10
    assert links <= headings


def test_tables_are_whole():
    rows = [line for line in reference().splitlines() if line.startswith("|")]
    columns = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}

    assert columns <= {3, 4, 5}


def test_both_files_are_written(tmp_path):
    write(tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {"recipe.md", "recipe.schema.json"}
