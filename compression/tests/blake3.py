"""BLAKE3 from its paper, for `decoder.py`: the hash and the key derivation, 32 bytes each.

Every 1024-byte chunk, and every pair of a tree level, is a lane: one compression works on all of them at once.
"""

import numpy as np

IV = np.array([0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19], np.uint32)
PERMUTATION = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8]
CHUNK_START, CHUNK_END, PARENT, ROOT, CONTEXT, MATERIAL = 1, 2, 4, 8, 32, 64
BLOCK, CHUNK = 64, 1024


def rotate(x, bits):
    return x >> np.uint32(bits) | x << np.uint32(32 - bits)


def mix(a, b, c, d, x, y):
    for word, first, second in (x, 16, 12), (y, 8, 7):
        a = a + b + word
        d = rotate(d ^ a, first)
        c = c + d
        b = rotate(b ^ c, second)
    return a, b, c, d


def compress(chaining, words, counter, length, flags):
    """The new chaining values, (8, lanes); `words` are (16, lanes), `counter` is one number per lane."""
    lanes = words.shape[1]
    tail = np.stack([counter, np.zeros(lanes), np.full(lanes, length), np.full(lanes, flags)]).astype(np.uint32)
    a, b, c, d = chaining[:4], chaining[4:], np.repeat(IV[:4, None], lanes, 1), tail
    for _ in range(7):
        a, b, c, d = mix(a, b, c, d, words[0:8:2], words[1:8:2])
        # The diagonals are the columns once each row is turned by its number.
        b, c, d = np.roll(b, -1, 0), np.roll(c, -2, 0), np.roll(d, -3, 0)
        a, b, c, d = mix(a, b, c, d, words[8::2], words[9::2])
        b, c, d = np.roll(b, 1, 0), np.roll(c, 2, 0), np.roll(d, 3, 0)
        words = words[PERMUTATION]
    return np.concatenate([a ^ c, b ^ d])


def hash_chunks(key, data, first, flags):
    """The chaining values of chunks of one length, numbered from `first`: `data` is (chunks, length) bytes."""
    chunks, length = data.shape
    value, counter = np.repeat(key[:, None], chunks, 1), first + np.arange(chunks)
    for start in range(0, max(length, 1), BLOCK):
        size = min(BLOCK, length - start)
        block = np.zeros((chunks, BLOCK), np.uint8)
        block[:, :size] = data[:, start : start + size]
        # The flags of a whole tree's root are the caller's, and belong to the last block alone.
        here = flags & ~ROOT | CHUNK_START * (start == 0)
        if start + BLOCK >= length:
            here = here | CHUNK_END | flags & ROOT
        value = compress(value, block.view("<u4").T, counter, size, here)
    return value


def tree(key, data, flags):
    data = np.frombuffer(data, np.uint8)
    full = max(0, (len(data) - 1) // CHUNK)
    last = data[full * CHUNK :][None]
    if full == 0:
        return hash_chunks(key, last, 0, flags | ROOT)[:, 0]
    level = np.concatenate(
        [hash_chunks(key, data[: full * CHUNK].reshape(full, CHUNK), 0, flags), hash_chunks(key, last, full, flags)], axis=1
    )
    # Joining neighbours, an odd last one moving up, gives the paper's tree: the left side of each node is the largest full one.
    while level.shape[1] > 1:
        pairs = level.shape[1] // 2
        words = np.concatenate([level[:, 0 : 2 * pairs : 2], level[:, 1 : 2 * pairs : 2]])
        top = ROOT if level.shape[1] == 2 else 0
        joined = compress(np.repeat(key[:, None], pairs, 1), words, np.zeros(pairs), BLOCK, flags | PARENT | top)
        level = np.concatenate([joined, level[:, 2 * pairs :]], axis=1)
    return level[:, 0]


def blake3(data):
    return tree(IV, data, 0).astype("<u4").tobytes()


def derive_key(context, data):
    return tree(tree(IV, context.encode(), CONTEXT), data, MATERIAL).astype("<u4").tobytes()
