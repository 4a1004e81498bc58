"""Texts that are nearly equal, found by MinHash and locality-sensitive hashing."""

from collections.abc import Sequence

import numpy as np
import xxhash
from jaxtyping import UInt32, UInt64

NUM_HASHES = 128
"""Minima per text: the standard deviation of an estimate is at most 0.5 / sqrt(128) = 0.044."""
MOST_MISSED = 0.1
"""Of pairs right at the threshold, at most this share is never compared; of closer ones, far less."""
AT_ONCE = 4096
"""N-grams hashed together, which bounds memory."""

Signature = UInt32[np.ndarray, "128"]


def text_hash(text: str) -> int:
    """64 well-mixed bits, equal on every machine."""
    # JSON may hold half a surrogate pair.
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


def ngrams(words: Sequence[str], length: int) -> UInt64[np.ndarray, " ngrams"]:
    """Hashes of a text's word n-grams; of a shorter text, the hash of all of it."""
    starts = range(max(1, len(words) - length + 1))
    hashes = (text_hash(" ".join(words[i : i + length])) for i in starts)
    return np.fromiter(hashes, np.uint64, len(starts))


# One hash function each: the upper half of the product. Not of numpy's generator, whose streams may
# change between versions.
_FACTORS = np.array([text_hash(f"factor {i}") | 1 for i in range(NUM_HASHES)], np.uint64)


def signature(hashes: UInt64[np.ndarray, " ngrams"]) -> Signature:
    """The least value of each of 128 hash functions over a set of n-grams.

    Two sets have equal minima with the probability of their Jaccard similarity.

    References:
        Broder 1997, "On the Resemblance and Containment of Documents".
    """
    least = np.full(NUM_HASHES, 2**32 - 1, np.uint32)
    for start in range(0, len(hashes), AT_ONCE):
        part = hashes[start : start + AT_ONCE, None] * _FACTORS
        least = np.minimum(least, (part >> np.uint64(32)).astype(np.uint32).min(axis=0))
    return least


def similarity(first: Signature, second: Signature) -> float:
    """An estimate, without bias, of the Jaccard similarity of two sets."""
    return float(np.mean(first == second))


def rows_per_band(threshold: float) -> int:
    """How many minima two texts must share, side by side, to be compared.

    The largest power of two r with (1 - threshold^r)^(128 / r) <= 0.1.

    Example:
        >>> rows_per_band(0.8)
        8
    """
    sizes = [2**power for power in range(8)]
    found = [r for r in sizes if (1 - threshold**r) ** (NUM_HASHES // r) <= MOST_MISSED]
    return max(found, default=1)


class NearDuplicates:
    """Texts that were seen, to be asked for nearly equal ones.

    The index grows by about 3,000 bytes for each text that was new, at a threshold of 0.8: 512 for its
    signature, the rest for 16 buckets. Texts that had a duplicate are not in it.

    Args:
        threshold: The least Jaccard similarity of duplicates.
        ngram: Words of an n-gram.
    """

    def __init__(self, threshold: float, ngram: int):
        self.threshold = threshold
        self.ngram = ngram
        self.width = rows_per_band(threshold)
        self._signatures = bytearray()
        self._buckets: dict[int, tuple[int, ...]] = {}

    def has_seen(self, text: str) -> bool:
        """Whether a text is nearly equal to one before; if not, it is remembered."""
        found = signature(ngrams(text.split(), self.ngram))
        keys = self._keys(found)
        candidates = {number for key in keys for number in self._buckets.get(key, ())}
        if any(similarity(found, self._at(number)) >= self.threshold for number in candidates):
            return True
        number = len(self._signatures) // found.nbytes
        self._signatures += found.tobytes()
        for key in keys:
            self._buckets[key] = (*self._buckets.get(key, ()), number)
        return False

    def _keys(self, found: Signature) -> list[int]:
        starts = range(0, NUM_HASHES, self.width)
        bands = (found[start : start + self.width] for start in starts)
        return [xxhash.xxh3_64_intdigest(band.tobytes()) for band in bands]

    def _at(self, number: int) -> Signature:
        size = 4 * NUM_HASHES
        return np.frombuffer(self._signatures[size * number : size * (number + 1)], np.uint32)
