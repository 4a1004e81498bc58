"""How much memory the chunked head takes for itself. Imports no torch, so an estimate can ask too."""

MIB = 2**20

# One of a chunk's two buffers. Larger chunks make the matrix products more efficient; with fewer than
# half as many positions as the hidden states have numbers, a CPU spends more time on adding up the
# weight's gradient, chunk by chunk, so it takes that many.
CHUNK_BYTES_ON_CPU = 126 * MIB
CHUNK_BYTES_ON_ACCELERATOR = 256 * MIB
# The float32 logits of one block, of which about eight copies stand at once. Smaller blocks stay in a
# CPU's cache, larger ones keep its threads from waiting for the interpreter.
BLOCK_BYTES_ON_CPU = 4 * MIB
BLOCK_BYTES_ON_ACCELERATOR = 64 * MIB


def rows_of_chunk(num_rows: int, row_bytes: int, hidden_size: int, *, on_cpu: bool) -> int:
    """Positions per chunk: within the budget, and in all chunks alike.

    Args:
        num_rows: Of all positions.
        row_bytes: Of one position's logits, as they are computed.
        hidden_size: Of the student.
        on_cpu: Otherwise on an accelerator.
    """
    if on_cpu:
        most = max(1, CHUNK_BYTES_ON_CPU // row_bytes, hidden_size // 2)
    else:
        most = max(1, CHUNK_BYTES_ON_ACCELERATOR // row_bytes)
    num_chunks = max(1, -(-num_rows // most))
    return max(1, -(-num_rows // num_chunks))


def rows_of_block(row_bytes: int, *, on_cpu: bool) -> int:
    """Positions per block.

    Args:
        row_bytes: Of one position's logits in float32.
        on_cpu: Otherwise on an accelerator.
    """
    return max(1, (BLOCK_BYTES_ON_CPU if on_cpu else BLOCK_BYTES_ON_ACCELERATOR) // row_bytes)
