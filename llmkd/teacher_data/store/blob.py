"""Arrays of numbers as one blob of bytes, which says what it is and is read by itself.

Arrays are kept byte by byte: the lowest bytes of all numbers, the next ones, and so on. High bytes take
few values, low bytes are nearly random, and zstd codes each best alone: by how often each value comes
in a block of its own (Parquet's BYTE_STREAM_SPLIT does the same, but not row by row). Little-endian:

    kind (1 byte), version (1), positions (4), K (4), bytes of all arrays (4)
    one zstd frame
"""

import math
import struct
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8

VERSION = 1
_HEADER = struct.Struct("<BBIII")
_ZSTD = pa.Codec("zstd")
_SMALLEST_BLOCK, _LARGEST_BLOCK = 4, 2**17  # bytes of zstd's blocks, packed and unpacked
# Long enough to pay for a table of its own, short enough for statistics that change along an array.
_BLOCK = 2**12


def join(kind: int, shape: tuple[int, int], arrays: Sequence[np.ndarray]) -> bytes:
    """The blob.

    Args:
        kind: What the arrays are.
        shape: Positions and K.
        arrays: Of any shapes and types of numbers, 4 GiB in all.
    """
    header = _HEADER.pack(kind, VERSION, *shape, sum(array.nbytes for array in arrays))
    sink = pa.BufferOutputStream()
    sink.write(header)
    # At pyarrow's level 1: higher ones look for repetitions, of which there are next to none.
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        for array in arrays:
            for of_each in array.reshape(-1, 1).view(np.uint8).T:
                for start in range(0, len(of_each), _BLOCK):
                    stream.write(of_each[start : start + _BLOCK].tobytes())
                    stream.flush()  # which ends the block
    return sink.getvalue().to_pybytes()


class Blobs:
    """Blobs of one kind that are being read together: first `take` of each array, then `close`.

    Together, since of a short blob the numbers take less time than the calls: now one for each array,
    and one of zstd, serve all of them.

    Attributes:
        kind: What the arrays are.
        shapes: Of each blob, positions and K.

    Raises:
        ValueError: Another version, several kinds, or another length than the headers say.
    """

    def __init__(self, contents: Sequence[bytes | memoryview]):
        headers = [_header(content) for content in contents]
        kinds = {kind for kind, _, _ in headers}
        if len(kinds) > 1:
            raise ValueError(f"blobs of kinds {sorted(kinds)}, which do not go together")
        (self.kind,) = kinds
        self.shapes = [shape for _, shape, _ in headers]
        sizes = [size for _, _, size in headers]
        # To zstd, frames that follow each other are one.
        frames = b"".join(memoryview(content)[_HEADER.size :] for content in contents)
        numbers = np.frombuffer(_decompress(frames, sum(sizes)), np.uint8)
        self._left = np.split(numbers, np.cumsum(sizes[:-1]))

    def take(
        self, dtype: type[np.generic], shapes: Sequence[tuple[int, ...]], axis: int = 0
    ) -> np.ndarray:
        """The next array of each blob, as one.

        Args:
            dtype: Of the numbers.
            shapes: Of each blob's array.
            axis: Along which they are joined.

        Raises:
            ValueError: One is not there, or they cannot be joined.
        """
        itemsize = np.dtype(dtype).itemsize
        parts = [self._planes(blob, itemsize, shape) for blob, shape in enumerate(shapes)]
        lowest, *others = np.concatenate(parts, axis + 1) if len(parts) > 1 else parts[0]
        bits = lowest.astype(f"u{itemsize}")
        for byte, of_each in enumerate(others, start=1):
            bits |= of_each.astype(bits.dtype) << (8 * byte)
        return bits.view(dtype)

    def close(self) -> None:
        """After the last array.

        Raises:
            ValueError: Something is left.
        """
        if num_left := sum(map(len, self._left)):
            raise ValueError(f"{num_left} bytes too many in a blob")

    def _planes(
        self, blob: int, itemsize: int, shape: tuple[int, ...]
    ) -> UInt8[np.ndarray, "itemsize *shape"]:
        left, end = self._left[blob], math.prod(shape) * itemsize
        if len(left) < end:
            raise ValueError(f"{len(left)} bytes are left in a blob where {end} belong")
        self._left[blob] = left[end:]
        return left[:end].reshape(itemsize, *shape)


def _header(content: bytes | memoryview) -> tuple[int, tuple[int, int], int]:
    """Kind, positions and K, bytes of all arrays."""
    num_bytes = len(content) - _HEADER.size
    if num_bytes < 0:
        raise ValueError(f"{len(content)} bytes are too few for a blob's header")
    kind, version, num_positions, k, size = _HEADER.unpack_from(content)
    if version != VERSION:
        raise ValueError(f"a blob of version {version}; this program reads version {VERSION}")
    # Before memory is taken for what a few wrong bytes claim.
    if size > num_bytes * _LARGEST_BLOCK // _SMALLEST_BLOCK:
        raise ValueError(f"a blob of {num_bytes} bytes cannot hold {size}")
    return kind, (num_positions, k), size


def _decompress(content: bytes, size: int) -> pa.Buffer:
    try:
        return _ZSTD.decompress(content, size)
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(
            f"a blob of {len(content)} bytes that are not {size} under zstd"
        ) from error
