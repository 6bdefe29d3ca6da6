"""A payload decoder written from `../README.md` alone, and as strict. Python 3.11, numpy.

    python3 decoder.py FOLDER                              check every NAME.trb beside its NAME.safetensors
    python3 decoder.py FILE.trb --like FILE.safetensors    print what a payload holds

A safetensors file gives the layout: its f32 tensors, in ascending byte order of their names. In a folder,
its data is what must be decoded, bit for bit.
"""

import json
import struct
import sys
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path

import numpy as np
from blake3 import blake3, derive_key

SIGN2, SIGN1, REFERENCE = 1, 2, 3
PACKED12, ELIAS_FANO, GOLOMB, GROUP_MAX = 1, 2, 3, 4
VALUES = {SIGN2: "sign2", SIGN1: "sign1", REFERENCE: "reference"}
INDICES = {PACKED12: "packed12", ELIAS_FANO: "elias-fano", GOLOMB: "golomb", GROUP_MAX: "group-max"}
LOW = [0, 64, 66, 74, 83, 87, 87, 96, 103, 113]
HIGH = [98, 94, 80, 97, 99, 128, 194, 117, 128, 147]
STEP = [64, 69, 74, 79, 84, 91, 97, 104, 111, 119]
HEADER = struct.Struct("<4sHHIIQ32s32s32s32s")


class Refused(Exception):
    """Why a payload is none."""


def check(holds, why):
    if not holds:
        raise Refused(why)


class Bytes:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        check(count <= len(self.data) - self.at, "truncated")
        self.at += count
        return self.data[self.at - count : self.at]

    def rest(self):
        return self.take(len(self.data) - self.at)


class Bits:
    """A stream of bits, kept as one byte each."""

    def __init__(self, data):
        self.bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little").tobytes()
        self.at, self.scale = 0, 100

    def take(self, count):
        check(count <= len(self.bits) - self.at, "bits run out")
        self.at += count
        return sum(bit << i for i, bit in enumerate(self.bits[self.at - count : self.at]))

    def unary(self):
        """The number of zeros before the next one, which is taken too."""
        one = self.bits.find(1, self.at)
        check(one >= 0, "bits run out")
        zeros, self.at = one - self.at, one + 1
        return zeros

    def scale_code(self):
        zeros = self.unary()
        check(zeros <= 8, "scale code out of range")
        z = (1 << zeros) + self.take(zeros) - 1
        self.scale += z // 2 if z % 2 == 0 else -(z + 1) // 2
        check(0 <= self.scale <= 250, "scale code out of range")
        return self.scale

    def finish(self):
        check(len(self.bits) - self.at < 8, "bytes after the last bit")
        check(not any(self.bits[self.at :]), "padding is not zero")


def fixed_width(data, count, width):
    bits = Bits(data)
    numbers = [bits.take(width) for _ in range(count)]
    bits.finish()
    return numbers


@dataclass(frozen=True)
class Codec:
    amount: int  # K, or G with group-max
    value: int
    index: int

    def __post_init__(self):
        check(self.value in VALUES and self.index in INDICES, "unknown codec")
        check(self.amount in (16, 32, 64) if self.index == GROUP_MAX else 1 <= self.amount <= 4096, "K or G out of range")

    def count(self, n):
        """k, how many values a chunk of n elements sends."""
        if self.index == GROUP_MAX:
            return ceil(n / self.amount)
        if self.value == REFERENCE:
            k = min(self.amount, n)
            return min(max(k - k % 2, 2), n)
        return max(1, self.amount * n // 4096)

    def sizes(self, n):
        """Of a chunk: the bytes of its value codes, of its indices outside of the stream, and the least and most bits in the stream."""
        k, least, most = self.count(n), 0, 0
        codes = ceil(k * (1 if self.value == SIGN1 else 2) / 8)
        if self.index == PACKED12:
            indices = ceil(12 * k / 8)
        elif self.index == ELIAS_FANO:
            low = floor_log2(n // k)
            indices = ceil(k * low / 8) + ceil((k + ((n - 1) >> low) + 1) / 8)
        elif self.index == GROUP_MAX:
            indices = ceil(k * floor_log2(self.amount) / 8)
        else:
            m, scale = golomb_divisor(n, k), self.value != REFERENCE
            indices = ceil(k * floor_log2(m) / 8)
            least, most = k + scale, 2 * k + (n - k) // m + 17 * scale
        return codes, indices, least, most


def floor_log2(n):
    return n.bit_length() - 1


def golomb_divisor(n, k):
    return max(1, 177 * n // (256 * k))


@dataclass(frozen=True)
class Chunk:
    row: int
    column: int
    height: int
    width: int

    @property
    def n(self):
        return self.height * self.width


def largest_divisor(n):
    return max(d for d in range(1, 65) if n % d == 0)


def bands(shape, codec):
    """The tensor as a matrix's [rows, columns], and its chunks, band by band. A 1-D tensor is one row, and each of its runs a band."""
    rows, columns = prod(shape[:-1]), shape[-1]
    if codec.value == REFERENCE:
        high, wide = largest_divisor(rows), largest_divisor(columns)
    else:
        high, wide = (1, 4096) if len(shape) == 1 else (64, 64)
    tiles = [
        [Chunk(r, c, min(high, rows - r), min(wide, columns - c)) for c in range(0, columns, wide)] for r in range(0, rows, high)
    ]
    return (rows, columns), [[run] for run in tiles[0]] if len(shape) == 1 else tiles


def plan_sections(shapes, codecs):
    """The sections, each a list of parts: (tensor, chunks)."""
    sections, size = [], 0
    for tensor, (shape, codec) in enumerate(zip(shapes, codecs)):
        for band in bands(shape, codec)[1]:
            if not sections or size + len(band) > 1024:
                sections.append([])
                size = 0
            if not sections[-1] or sections[-1][-1][0] != tensor:
                sections[-1].append((tensor, []))
            sections[-1][-1][1].extend(band)
            size += len(band)
    return sections


def golomb_indices(stream, data, n, k):
    m = golomb_divisor(n, k)
    b = floor_log2(m)
    u = 2 ** (b + 1) - m
    remainders = fixed_width(data, k, b)
    quotients = [stream.unary() for _ in range(k)]
    index, indices = -1, []
    for q, x in zip(quotients, remainders):
        r = x + (2**b - u) * (stream.take(1) if x >= u else 0)
        index += q * m + r + 1
        indices.append(index)
    return indices


def elias_fano_indices(data, n, k):
    low = floor_log2(n // k)
    split = ceil(k * low / 8)
    lows = fixed_width(data[:split], k, low)
    bitmap = fixed_width(data[split:], k + ((n - 1) >> low) + 1, 1)
    ones = [at for at, bit in enumerate(bitmap) if bit]
    check(len(ones) == k, "not k bits are set")
    return [((one - j) << low) + part for j, (one, part) in enumerate(zip(ones, lows))]


def read_indices(codec, n, data, stream):
    k = codec.count(n)
    if codec.index == GROUP_MAX:
        offsets = fixed_width(data, k, floor_log2(codec.amount))
        indices = [j * codec.amount + offset for j, offset in enumerate(offsets)]
    elif codec.index == PACKED12:
        indices = fixed_width(data, k, 12)
    elif codec.index == ELIAS_FANO:
        indices = elias_fano_indices(data, n, k)
    else:
        indices = golomb_indices(stream, data, n, k)
    check(all(a < b for a, b in zip(indices, indices[1:])), "indices do not ascend")
    check(indices[-1] < n, "an index beyond the chunk")
    return indices


def scaled_values(codec, scale, codes, indices):
    """The values of a chunk with a scale code."""
    check(scale <= 250, "scale code out of range")
    if scale == 0:
        step = codec.amount if codec.index == GROUP_MAX else 1
        check(not any(codes) and indices == [j * step for j in range(len(codes))], "a chunk of zeros is not the one that is allowed")
        return np.zeros(len(codes), np.float32)
    octave, p = (scale - 1) // 10 - 20, (scale - 1) % 10
    if codec.value == SIGN1:
        table = [STEP[p], -STEP[p]]
    else:
        check(p != 0 or 2 not in codes, "a minus zero")
        table = [LOW[p], HIGH[p], -LOW[p], -HIGH[p]]
    return np.array([table[code] / 64 * 2.0**octave for code in codes], np.float32)


def check_table(table, used):
    values = table[used]
    check(all(abs(value) <= 64 for value in values), "a table beyond 64")
    check(all(a < b for a, b in zip(values, values[1:])), "a table that does not ascend")
    check(not any(values[np.signbit(values)] == 0), "a minus zero")
    check(not np.delete(table.view(np.uint32), used).any(), "an unused value is not zero")


def decode_section(body, parts, codecs, tensors):
    """Writes what a section sends into the tensors."""
    body, fields, least, most = Bytes(body), [], 0, 0
    for tensor, chunks in parts:
        codec, sizes = codecs[tensor], [codecs[tensor].sizes(chunk.n) for chunk in chunks]
        table = np.frombuffer(body.take(16 if codec.value == REFERENCE else 0), "<f4")
        scales = body.take(0 if codec.value == REFERENCE or codec.index == GOLOMB else len(chunks))
        codes = [body.take(size[0]) for size in sizes]
        indices = [body.take(size[1]) for size in sizes]
        fields.append((codec, tensors[tensor], table, scales, list(zip(chunks, codes, indices))))
        least, most = least + sum(size[2] for size in sizes), most + sum(size[3] for size in sizes)
    rest = body.rest()
    check(ceil(least / 8) <= len(rest) <= ceil(most / 8), "a section's length")
    stream = Bits(rest)
    for codec, dense, table, scales, chunks in fields:
        used = set()
        for number, (chunk, code_bytes, index_bytes) in enumerate(chunks):
            if codec.value != REFERENCE:
                scale = scales[number] if codec.index != GOLOMB else stream.scale_code()
            indices = read_indices(codec, chunk.n, index_bytes, stream)
            codes = fixed_width(code_bytes, len(indices), 1 if codec.value == SIGN1 else 2)
            used.update(codes)
            rows, columns = np.divmod(indices, chunk.width)
            values = table[codes] if codec.value == REFERENCE else scaled_values(codec, scale, codes, indices)
            dense[chunk.row + rows, chunk.column + columns] = values
        if codec.value == REFERENCE:
            check_table(table, sorted(used))
    stream.finish()


def read_codecs(entries, tensors):
    runs, codecs = [struct.unpack("<IHBB", entries[at : at + 8]) for at in range(0, len(entries), 8)], []
    check(sum(run[0] for run in runs) == tensors, "the codec runs do not add up to the tensors")
    for count, *codec in runs:
        check(count > 0 and (not codecs or codecs[-1] != Codec(*codec)), "an empty codec run, or one like its neighbour")
        codecs += [Codec(*codec)] * count
    return codecs


def layout_digest(layout):
    parts = [struct.pack("<Q", len(layout))]
    for name, shape in layout:
        name = name.encode()
        parts += [struct.pack("<Q", len(name)), name, struct.pack(f"<{len(shape) + 1}Q", len(shape), *shape)]
    return derive_key("tributary 2026 layout v1", b"".join(parts))


def decode(payload, layout):
    """The round, the codecs and the sections' number of a payload, and its tensors, zero where nothing was sent."""
    reader = Bytes(payload)
    fixed = reader.take(HEADER.size)
    magic, version, runs, tensors, sections, round_, _run, _root, digest, _hotkey = HEADER.unpack(fixed)
    check(magic == b"TRBP" and version == 2, "another magic or version")
    check(tensors == len(layout) and digest == layout_digest(layout), "another layout")
    entries = reader.take(8 * runs)
    codecs, shapes = read_codecs(entries, tensors), [shape for _, shape in layout]
    plan = plan_sections(shapes, codecs)
    check(sections == len(plan), "another number of sections")
    dense = [np.zeros(bands(shape, codec)[0], np.float32) for shape, codec in zip(shapes, codecs)]
    closing, lengths = fixed + entries, []
    for parts in plan:
        prefix = reader.take(36)
        (length,) = struct.unpack("<I", prefix[:4])
        body = reader.take(length)
        check(blake3(body) == prefix[4:], "a section's hash")
        decode_section(body, parts, codecs, dense)
        closing, lengths = closing + prefix, lengths + [length]
    check(list(struct.unpack(f"<{sections}I", reader.take(4 * sections))) == lengths, "the footer's lengths")
    check(struct.unpack("<Q", reader.take(8))[0] == len(payload), "the footer's total length")
    check(reader.take(32) == blake3(closing), "the closing hash")
    check(reader.at == len(payload), "bytes after the footer")
    return round_, codecs, sections, [tensor.reshape(shape) for tensor, shape in zip(dense, shapes)]


def read_safetensors(path):
    """The layout and the tensors."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    layout, tensors = [], []
    for name, entry in sorted(header.items(), key=lambda item: item[0].encode()):
        begin, end = entry["data_offsets"]
        assert entry["dtype"] == "F32", f"{name} is not f32"
        layout.append((name, entry["shape"]))
        tensors.append(np.frombuffer(data[8 + length + begin : 8 + length + end], "<f4").reshape(entry["shape"]))
    return layout, tensors


def check_file(path):
    """Why a payload is not what lies beside it; None if it is."""
    try:
        layout, expected = read_safetensors(path.with_suffix(".safetensors"))
        decoded = decode(path.read_bytes(), layout)[3]
    except (Refused, OSError) as fault:
        return str(fault)
    for (name, _), got, wanted in zip(layout, decoded, expected):
        differing = np.count_nonzero(got.view(np.uint32) != wanted.view(np.uint32))
        if differing:
            return f"{name}: {differing} of {wanted.size} elements differ"


def check_folder(folder):
    faults = {path.name: check_file(path) for path in sorted(folder.glob("*.trb"))}
    for name, fault in faults.items():
        print(f"{name}: {fault or 'passed'}")
    failed = sum(fault is not None for fault in faults.values())
    print(f"{len(faults) - failed} passed, {failed} failed")
    return failed > 0 or not faults


def show(path, like):
    layout, _ = read_safetensors(like)
    payload = path.read_bytes()
    round_, codecs, sections, tensors = decode(payload, layout)
    print(f"{blake3(payload).hex()}: round {round_}, {len(layout)} tensors, {sections} sections, {len(payload)} bytes")
    for (name, shape), codec, tensor in zip(layout, codecs, tensors):
        sent, norm = np.count_nonzero(tensor), np.linalg.norm(tensor.astype(np.float64))
        print(f"{name} {shape}: {codec.amount} {VALUES[codec.value]} {INDICES[codec.index]}, {sent} of {tensor.size} sent, norm {norm:.6g}")


def main():
    if len(sys.argv) == 2:
        sys.exit(check_folder(Path(sys.argv[1])))
    if len(sys.argv) == 4 and sys.argv[2] == "--like":
        return show(Path(sys.argv[1]), Path(sys.argv[3]))
    sys.exit(__doc__)


if __name__ == "__main__":
    main()
