"""Ten million positions: opened at once, read in little memory. Figures: benchmarks/bench_store.py."""

import json
import subprocess
import sys

import numpy as np

from llmkd.teacher_data.store import StoreRow, StoreWriter, tokens_key

ROWS, POSITIONS = 20_000, 500

# In a process of its own, which has not touched the rows before.
READ = """
import json, re, sys, time
from pathlib import Path
from llmkd.teacher_data.store import Store
def own_mib():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
def read(rows):
    for index in rows:
        assert store[index].number == index
before, started = own_mib(), time.perf_counter()
store = Store.open(sys.argv[1])
opened_s, opened = time.perf_counter() - started, own_mib()
read(range(0, len(store), 100))
some = own_mib()
read(range(len(store)))
print(json.dumps([opened_s, opened - before, own_mib() - some]))
"""


def test_ten_million_positions_open_in_less_than_a_second_and_take_no_memory(made, tmp_path):
    settings = made.make_settings(None, num_rows=ROWS, rows_per_shard=200, num_samples=1)
    token_ids = np.arange(POSITIONS + 1, dtype=np.int32)

    def row(number):
        token_ids[0] = number
        return StoreRow(number, 0, tokens_key(token_ids), token_ids.copy(), [1, POSITIONS + 1])

    with StoreWriter(tmp_path, settings) as writer:
        for number in list(writer.missing):
            writer.write(number, map(row, writer.rows_of(number)))
        assert writer.finish().num_positions == 10_000_000
    command = [sys.executable, "-c", READ, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    opened_s, mib_to_open, mib_to_read = json.loads(done.stdout)
    assert opened_s < 1
    assert mib_to_open < 10
    # Of the shards, which are mapped, nothing is its own; they have 40 MiB.
    assert mib_to_read < 5
