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


class Blob:
    """A blob that is being read: first `take` of each array, then `close`.

    Raises:
        ValueError: Another version, or another length than the header says.
    """

    def __init__(self, content: bytes | memoryview):
        if len(content) < _HEADER.size:
            raise ValueError(f"{len(content)} bytes are too few for a blob's header")
        self.kind, version, self.num_positions, self.k, size = _HEADER.unpack_from(content)
        if version != VERSION:
            raise ValueError(f"a blob of version {version}; this program reads version {VERSION}")
        self._left = np.frombuffer(_decompress(memoryview(content)[_HEADER.size :], size), np.uint8)

    def take(self, dtype: type[np.generic], *shape: int) -> np.ndarray:
        """The next array.

        Raises:
            ValueError: It is not there.
        """
        count, itemsize = math.prod(shape), np.dtype(dtype).itemsize
        end = count * itemsize
        if len(self._left) < end:
            raise ValueError(f"{len(self._left)} bytes are left in a blob where {end} belong")
        lowest, *others = self._left[:end].reshape(itemsize, count)
        self._left = self._left[end:]
        bits = lowest.astype(f"u{itemsize}")
        for byte, of_each in enumerate(others, start=1):
            bits |= of_each.astype(bits.dtype) << (8 * byte)
        return bits.view(dtype).reshape(shape)

    def close(self) -> None:
        """After the last array.

        Raises:
            ValueError: Something is left.
        """
        if len(self._left):
            raise ValueError(f"{len(self._left)} bytes too many in a blob")


def _decompress(content: memoryview, size: int) -> pa.Buffer:
    # Before memory is taken for what a few wrong bytes claim.
    if size > len(content) * _LARGEST_BLOCK // _SMALLEST_BLOCK:
        raise ValueError(f"a blob of {len(content)} bytes cannot hold {size}")
    try:
        return _ZSTD.decompress(content, size)
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(
            f"a blob of {len(content)} bytes that are not {size} under zstd"
        ) from error
