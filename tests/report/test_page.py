"""The page as a reader gets it."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from llmkd.report.write import write_report

HOSTILE = "</script><script>alert(1)</script><b>bold</b> \"'&"


class Elements(HTMLParser):
    """Every element of a page with its attributes, and its text."""

    def __init__(self, html):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data.replace("\u00a0", " ")

    def of(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def report_of(folder, **options):
    html = write_report([folder], **options).read_text(encoding="utf-8")
    return html, Elements(html)


def write_details(folder, **content):
    (folder / "stages/evaluation/details.json").write_text(json.dumps(content))


def sample(prompt="1+1=", reference="2", **answers):
    shown = {
        name: {"text": text, "num_tokens": 1, "is_right": False} for name, text in answers.items()
    }
    return {
        "task": "sums",
        "example": 0,
        "prompt": prompt,
        "reference": reference,
        "answers": shown,
    }


def test_the_page_says_what_came_out_and_how_to_do_it_again(make_run):
    folder = make_run()
    html, page = report_of(folder)
    assert page.text.index("Verdict") < page.text.index("Training") < page.text.index("Recipe")
    assert "the student closes 83 % of the gap from twin to teacher" in page.text
    assert "no claim about the method" in page.text
    assert "llmkd train it" in page.text
    assert f"llmkd train {folder}/recipe.resolved.yaml output_dir=runs/run-again" in page.text
    assert "2026-01-02 03:04+00:00" in page.text
    assert page.text.count("12 s") == 5
    assert html.count("<svg") == 1 + 6 + 1


def test_nothing_is_loaded_from_anywhere(make_run):
    folder = make_run()
    write_details(folder, samples=[sample(HOSTILE, "http://reference", student="http://answer")])
    html, page = report_of(folder)
    assert not any(attributes.keys() & {"src", "srcset", "action"} for _, attributes in page.found)
    assert all(attributes["href"].startswith("#") for attributes in page.of("a"))
    assert not {tag for tag, _ in page.found} & {"link", "img", "iframe", "object", "base"}
    assert "@import" not in html
    assert "url(" not in html
    policy = page.of("meta")[2]["content"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


def test_hostile_text_stays_text_wherever_it_comes_from(make_run, stages):
    name = f"org/{HOSTILE}"
    stages["evaluation"]["models"].append(name)
    stages["student"]["teacher"]["model_name_or_path"] = name
    folder = make_run(stages=stages)
    records = json.loads((folder / "results.json").read_text())
    for key in ("model", "task", "metric"):
        records.append({**records[0], key: HOSTILE})
    (folder / "stages/evaluation/results.json").write_text(json.dumps(records))
    lines = (folder / "stages/student/metrics.jsonl").read_text()
    (folder / "stages/student/metrics.jsonl").write_text(
        lines.replace("grad_norm", f"loss/{HOSTILE[:9]}")
    )
    (folder / "environment.json").write_text(json.dumps({"command": HOSTILE, HOSTILE: HOSTILE}))
    write_details(
        folder,
        samples=[
            sample(HOSTILE, HOSTILE, **{name: HOSTILE + "x"}),
            sample("\ud800", None, a="\x00"),
        ],
        lengths=[{"task": HOSTILE, "model": name, "counts": [[3, 1]]}],
        reliability=[
            {"task": HOSTILE, "model": name, "bins": [{"confidence": 1, "accuracy": 1, "count": 1}]}
        ],
    )
    html, page = report_of(folder)
    assert len(page.of("script")) == 1
    assert page.of("b") != []
    assert "<b>bold" not in html
    assert "alert(1)</script>" not in html
    assert page.text.count(HOSTILE) > 10
    assert "sums #0" in page.text
    for chart in page.of("svg"):
        if "data-lines" in chart:
            assert json.loads(chart["data-lines"])


def test_the_policy_lets_its_own_script_and_style_through_and_no_other(make_run):
    import base64
    import hashlib

    html, page = report_of(make_run())
    policy = page.of("meta")[2]["content"]
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_a_run_that_has_only_begun_has_a_page(make_run):
    folder = make_run(records=[])
    for file in [*folder.glob("stages/*/*"), folder / "environment.json"]:
        file.unlink()
    _, page = report_of(folder)
    assert page.text.count("not begun") == 5
    assert "Nothing was measured yet" in page.text
    assert "Not recorded" in page.text
    assert not page.of("svg")


def test_a_recipe_without_an_evaluation_says_so(make_run, stages):
    del stages["evaluation"]
    _, page = report_of(make_run(stages=stages, records=[]))
    assert "the recipe has no evaluate stage" in page.text


def test_empty_and_half_written_files_are_passed_over(make_run):
    folder = make_run()
    path = folder / "stages/student/metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 210, "lo')
    (folder / "stages/twin/metrics.jsonl").write_text("")
    write_details(folder)
    _, page = report_of(folder)
    assert "metrics.jsonl: 1 broken line left out" in page.text
    assert "Samples" not in page.text


def test_numbers_that_are_not_finite_are_gaps_and_told(
    make_run, metric_lines, write_metrics, record
):
    nan = float("nan")
    folder = make_run(records=[record("student", nan, nan, nan), record("twin", 0.5, 0.4, 0.6)])
    lines = metric_lines(loss=lambda x: nan if 0.4 < x < 0.6 else 1 + x, kl=lambda x: nan)
    write_metrics(folder, "student", lines)
    html, page = report_of(folder)
    assert "loss is not finite in 4 of 20 log lines, first at step 90" in page.text
    assert "exact_match on sums of suite is not finite" in page.text
    loss = html[html.index("Loss: the weighted") :]
    assert loss[: loss.index("</svg>")].count("<path") == 2
    assert "nan" not in re.sub(r"<(script|style)>.*?</\1>", "", html, flags=re.DOTALL).lower()


def test_notices_stand_with_numbers_and_advice(make_run, metric_lines, write_metrics):
    folder = make_run(values=(1.0, 0.9, 0.9))
    (folder / "stages/texts/generation.json").write_text('{"num_prompts": 10, "num_kept": 5}')
    (folder / "stages/student/data.json").write_text(
        '{"num_rows": 10, "num_truncated": 5, "num_dropped": 0}'
    )
    lines = metric_lines(
        loss=lambda x: 1.0, kl=lambda x: 1.0, teacher_nll=lambda x: 2.0,
        **{
            "loss/cross_entropy": lambda x: 1.0,
            "grad_norm/forward_kl": lambda x: 1e-4,
            "grad_norm/cross_entropy": lambda x: 1.0,
        },
    )  # fmt: skip
    write_metrics(folder, "student", lines)
    _, page = report_of(folder)
    for found in (
        "kl fell by 0 %",
        "forward_kl makes 0.01 % of the gradient",
        "is above the student's own",
        "5 of 10 rows were cut (50 %)",
        "of 10 answers 5 (50 %)",
        "overlaps twin's",
    ):
        assert found in page.text, found
    assert page.text.count("What to do:") == 6
    _, page = report_of(folder.parent / make_run("quiet").name)
    assert "None of the signs" in page.text


def test_what_is_odd_about_several_stages_alike_is_told_once(make_run):
    folder = make_run()
    for stage in ("teacher", "twin", "student"):
        counts = '{"num_rows": 10, "num_truncated": 5, "num_dropped": 0}'
        (folder / "stages" / stage / "data.json").write_text(counts)
    _, page = report_of(folder)
    assert page.text.count("5 of 10 rows were cut") == 1
    assert "teacher, twin, student" in page.text


def test_samples_mark_what_departs_from_the_reference(make_run):
    folder = make_run()
    write_details(folder, samples=[sample("1+2=", "1233", student="1273", twin="1233")] * 8)
    html, page = report_of(folder)
    assert html.count("12<mark>7</mark>3") == 8
    assert "2 more" in page.text


def test_the_answers_section_is_about_what_there_is(make_run):
    folder = make_run()
    lengths = [{"task": "sums", "model": "student", "counts": [[3, 9]]}]
    bins = [{"confidence": 0.5, "accuracy": 0.25, "count": 4}]
    reliability = [{"task": "sums", "model": "student", "bins": bins}]
    write_details(folder, lengths=lengths)
    assert "Lengths of answers" in report_of(folder)[1].text
    write_details(folder, reliability=reliability)
    text = report_of(folder)[1].text
    assert "Lengths" not in text
    assert "Expected calibration error: student 0.250" in text
    write_details(folder, lengths=lengths, reliability=reliability)
    assert "Lengths and reliability" in report_of(folder)[1].text


def test_the_row_lengths_are_shown_with_max_length(make_run, stages):
    html, _ = report_of(make_run())
    assert "max_length 64" in html
    stages["student"]["data"]["max_length"] = 4096
    _, page = report_of(make_run("roomy", stages=stages))
    assert "max_length 4,096 is far beyond them" in page.text


def test_lengths_of_both_sides_together_are_not_held_against_a_limit_of_each(make_run, stages):
    stages["student"]["data"]["max_length"] = 63
    html, page = report_of(make_run(stages=stages))
    assert "prompt and completion together; max_length 63 is for each" in page.text
    assert html.count("max_length 63") == 1


def test_a_classifiers_page_speaks_of_labels_and_texts(make_run, stages, record):
    data = {"kind": "classification", "dataset_name": "org/rows", "max_length": 64}
    for name in ("teacher", "twin", "student"):
        stages[name]["data"] = data
    del stages["texts"]
    task = {"kind": "classification", "name": "labels", "data": data}
    stages["evaluation"]["suite"] = {"name": "s", "tasks": [task]}
    records = [
        record(m, 0.5, 0.4, 0.6, metric="accuracy", task="labels") for m in ("twin", "student")
    ]
    folder = make_run(stages=stages, records=records)
    answers = {"student": {"text": "rain", "num_tokens": None, "is_right": True}}
    write_details(
        folder,
        samples=[
            {
                "task": "labels",
                "example": 0,
                "prompt": "wet",
                "reference": "rain",
                "answers": answers,
            }
        ],
        reliability=[
            {
                "task": "labels",
                "model": "student",
                "bins": [{"confidence": 0.5, "accuracy": 0.25, "count": 4}],
            }
        ],
    )
    html, page = report_of(folder)
    assert "the token, or label, that a model finds most likely" in page.text
    assert "nats per token; of classifiers, per text" in page.text
    assert not re.search(r"\d tokens", page.text)
    # Drawn, as 64 is among the rows' lengths.
    assert "max_length 64" in html


@pytest.mark.parametrize("num_models", [1, 9])
def test_each_model_has_one_colour_that_the_style_sheet_knows(make_run, stages, num_models):
    for i in range(num_models):
        stages[f"more_{i}"] = stages["twin"]
    html, _ = report_of(make_run(stages=stages))
    used = set(re.findall(r'class="key ([a-z]+-\d)"', html))
    assert used
    assert all(f".{name} {{" in html for name in used)


def test_a_student_worse_than_its_twin_is_told(make_run):
    _, page = report_of(make_run(values=(1.0, 0.9, 0.4)))
    assert "exact_match 40.0 % is worse than twin's 90.0 %" in page.text
    assert "None of the signs" not in page.text


def test_over_seeds_a_claim_that_the_student_is_worse_is_told(make_run, tmp_path):
    values = ((1.0, 0.9, 0.4), (1.0, 0.9, 0.41), (1.0, 0.9, 0.39))
    runs = [make_run(f"r{i}", seed=i, values=each) for i, each in enumerate(values)]
    text = Elements(write_report(runs, tmp_path / "all.html").read_text(encoding="utf-8")).text
    assert "exact_match 40.0 % is worse than twin's 90.0 %" in text


def test_no_sign_of_harm_is_claimed_where_nothing_was_logged(make_run):
    folder = make_run(records=[])
    for file in folder.glob("stages/student/*"):
        file.unlink()
    _, page = report_of(folder)
    assert "None of the signs" not in page.text
    assert "Nothing was logged or measured yet" in page.text


def test_a_student_is_not_compared_with_itself(make_run):
    _, page = report_of(make_run(), baseline="student")
    assert "overlaps" not in page.text


def test_a_teacher_as_the_baseline_is_named_once(make_run):
    _, page = report_of(make_run(), baseline="teacher")
    assert page.text.count("teacher 100.0 %;") == 0
    assert "student 90.0 % [88.0, 92.0]; teacher 100.0 %: the student is worse" in page.text


def test_tasks_of_one_name_in_two_suites_are_told_apart(make_run, record):
    records = [record(m, 0.5, 0.4, 0.6) for m in ("twin", "student")]
    records += [replace(one, suite="other") for one in records]
    _, page = report_of(make_run(records=records))
    for suite in ("suite", "other"):
        assert f"{suite} · sums · exact_match" in page.text
        assert f"on sums of {suite}, exact_match" in page.text


def test_the_run_is_repeated_from_any_folder(make_run, monkeypatch):
    folder = make_run()
    monkeypatch.chdir(folder)
    _, page = report_of(Path())
    assert f"llmkd train {folder}/recipe.resolved.yaml output_dir=runs/run-again" in page.text
