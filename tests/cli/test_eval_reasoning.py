import json


def test_a_local_file_takes_the_place_of_the_hub_and_sampling_needs_a_temperature(
    llmkd, tokenizer, tiny_llama
):
    model = llmkd.folder / "model"
    tiny_llama(tokenizer).save_pretrained(model)
    tokenizer.save_pretrained(model)
    rows = [{"sum": f"{i}+1=", "answer": f"#### {i + 1}"} for i in range(3)]
    (llmkd.folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [
        "eval", "model", "--suite", "suite.yaml", "--data", "sums=sums.jsonl",
        "--columns", "sums.question=sum", "--limit", "2", "--num-samples", "2", "--json",
    ]  # fmt: skip
    task = {
        "kind": "reasoning", "name": "sums", "grader": "number",
        "data": {"dataset_name": "org/name"}, "generation": {"max_completion_length": 3},
    }  # fmt: skip
    (llmkd.folder / "suite.yaml").write_text(json.dumps({"name": "mine", "tasks": [task]}))
    _, err = llmkd.run(*command, status=2)
    assert "--num-samples, --temperature: tasks.0.generation.temperature: 0 gives the same" in err
    out, _ = llmkd.run(*command, "--temperature", "1")
    records = {one["metric"]: one for one in json.loads(out)["results"]}
    assert list(records) == [
        "pass@1", "pass@2", "avg@2", "maj@2", "tokens", "truncated", "unanswered"
    ]  # fmt: skip
    assert {one["num_examples"] for one in records.values()} == {2}
    assert 0 < records["tokens"]["value"] <= 3
