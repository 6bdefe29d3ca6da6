"""A payload decoder written from `../README.md` alone, and as strict: `python3 decoder.py FOLDER`. Python 3.10, numpy.

NAME.trb must be decoded to the data of NAME.safetensors, bit for bit; its f32 tensors, in ascending byte order of their names, also give the layout.
refused/NAME.bad.trb must be refused; NAME's line of refused/faults.txt tells the fault and a file with the layout.
"""

import json
import struct
import sys
from math import ceil, log2, prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
from blake3 import blake3, derive_key

SIGN2, SIGN1, REFERENCE = 1, 2, 3
PACKED12, ELIAS_FANO, GOLOMB, GROUP_MAX = 1, 2, 3, 4
LOW = [0, 64, 66, 74, 83, 87, 87, 96, 103, 113]
HIGH = [98, 94, 80, 97, 99, 128, 194, 117, 128, 147]
STEP = [64, 69, 74, 79, 84, 91, 97, 104, 111, 119]


class Refused(Exception):
    """The fault of bytes that are no payload."""


def check(holds, fault):
    if not holds:
        raise Refused(fault)


class Bits:
    """A stream of bits, kept as one byte each."""

    def __init__(self, data):
        self.bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little").tobytes()
        self.at, self.scale = 0, 100

    def take(self, count):
        check(count <= len(self.bits) - self.at, "End")
        self.at += count
        return sum(bit << i for i, bit in enumerate(self.bits[self.at - count : self.at]))

    def unary(self):
        """The number of zeros before the next one, which is taken too."""
        one = self.bits.find(1, self.at)
        check(one >= 0, "End")
        zeros, self.at = one - self.at, one + 1
        return zeros

    def scale_code(self):
        zeros = self.unary()
        check(zeros <= 8, "Range")
        z = (1 << zeros) + self.take(zeros) - 1
        self.scale += z // 2 if z % 2 == 0 else -(z + 1) // 2
        check(0 <= self.scale <= 250, "Scale")
        return self.scale

    def golomb_indices(self, fixed, m):
        b = int(log2(m))
        u = 2 ** (b + 1) - m
        quotients = [self.unary() for _ in fixed]
        gaps = [q * m + x + (2**b - u) * (self.take(1) if x >= u else 0) for q, x in zip(quotients, fixed)]
        return (np.cumsum(np.add(gaps, 1)) - 1).tolist()

    def finish(self):
        check(len(self.bits) - self.at < 8, "Trailing")
        check(not any(self.bits[self.at :]), "Padding")


class Bytes:
    def __init__(self, data):
        self.rest = data

    def take(self, count):
        check(count <= len(self.rest), "Truncated")
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken

    def numbers(self, count, width):
        """Numbers of so many bits, in whole bytes."""
        bits = Bits(self.take(ceil(count * width / 8)))
        numbers = [bits.take(width) for _ in range(count)]
        bits.finish()
        return numbers


class Codec(NamedTuple):
    amount: int  # K, or G with group-max
    value: int
    index: int

    def numbers(self, n):
        """Of a chunk of n elements: k; bits of a value code; M of golomb, or bits of an index, or of its low part."""
        whole = min(self.amount, n)
        k = min(max(whole - whole % 2, 2), n) if self.value == REFERENCE else max(1, self.amount * n // 4096)
        k = ceil(n / self.amount) if self.index == GROUP_MAX else k
        m = {PACKED12: 12, ELIAS_FANO: log2(n // k), GOLOMB: max(1, 177 * n // (256 * k)), GROUP_MAX: log2(self.amount)}
        return k, 1 if self.value == SIGN1 else 2, int(m[self.index])

    def indices(self, n, body):
        """The indices of a chunk; of golomb the values x."""
        k, _, m = self.numbers(n)
        numbers = body.numbers(k, int(log2(m)) if self.index == GOLOMB else m)
        if self.index == GROUP_MAX:
            return [j * self.amount + offset for j, offset in enumerate(numbers)]
        if self.index != ELIAS_FANO:
            return numbers
        bitmap = body.numbers(k + ((n - 1) >> m) + 1, 1)
        check(sum(bitmap) == k, "Count")
        return ((np.flatnonzero(bitmap) - np.arange(k) << m) + numbers).tolist()


def cut(shape, codec):
    """The tensor as a matrix's (rows, columns), and its chunks, band by band: row and column of the corner, height, width."""
    rows, columns = prod(shape[:-1]), shape[-1]
    high, wide = (1, 4096) if len(shape) == 1 else (64, 64)
    if codec.value == REFERENCE:
        high, wide = (max(d for d in range(1, 65) if side % d == 0) for side in (rows, columns))
    band = lambda r: [(r, c, min(high, rows - r), min(wide, columns - c)) for c in range(0, columns, wide)]
    return (rows, columns), [[run] for run in band(0)] if len(shape) == 1 else [band(r) for r in range(0, rows, high)]


def plan_sections(bands_of_tensors):
    """The sections, each the chunks by tensor."""
    sections, size = [], 0
    for tensor, bands in enumerate(bands_of_tensors):
        for band in bands:
            size += len(band)
            if not sections or size > 1024:
                sections, size = [*sections, {}], len(band)
            sections[-1].setdefault(tensor, []).extend(band)
    return sections


def scale_table(codec, scale, codes, indices):
    """What the codes of a chunk with a scale code stand for."""
    check(scale <= 250, "Scale")
    if scale == 0:
        step = codec.amount if codec.index == GROUP_MAX else 1
        check(not any(codes) and indices == [j * step for j in range(len(codes))], "ZeroChunk")
        return np.zeros(4, np.float32)
    octave, p = (scale - 1) // 10 - 20, (scale - 1) % 10
    table = (STEP[p], -STEP[p]) if codec.value == SIGN1 else (LOW[p], HIGH[p], -LOW[p], -HIGH[p])
    check(table[0] or 2 not in codes, "NegativeZero")
    check(table[0] or any(codes), "AllZero")
    return np.array([magnitude / 64 * 2.0**octave for magnitude in table], np.float32)


def decode_section(body, parts, codecs, tensors):
    """Writes what a section sends into the tensors."""
    body, fields, least, most = Bytes(body), [], 0, 0
    for tensor, chunks in parts.items():
        codec, scaled, golomb = codecs[tensor], codecs[tensor].value != REFERENCE, codecs[tensor].index == GOLOMB
        sizes = [(height * width, *codec.numbers(height * width)) for _, _, height, width in chunks]
        table = np.frombuffer(body.take(0 if scaled else 16), "<f4")
        scales = body.take(len(chunks) if scaled and not golomb else 0)
        codes = [body.numbers(k, bits) for _, k, bits, _ in sizes]
        indices = [codec.indices(n, body) for n, _, _, _ in sizes]
        fields.append((codec, tensors[tensor], table, scales, list(zip(chunks, codes, indices))))
        least += sum(k + scaled for _, k, _, _ in sizes if golomb)
        most += sum(2 * k + (n - k) // m + 17 * scaled for n, k, _, m in sizes if golomb)
    check(ceil(least / 8) <= len(body.rest) <= ceil(most / 8), "SectionLength")
    stream = Bits(body.rest)
    for codec, dense, table, scales, chunks in fields:
        for number, ((row, column, height, width), codes, indices) in enumerate(chunks):
            if codec.value != REFERENCE:
                scale = stream.scale_code() if codec.index == GOLOMB else scales[number]
            if codec.index == GOLOMB:
                indices = stream.golomb_indices(indices, codec.numbers(height * width)[2])
            check(all(np.diff(indices) > 0), "Order")
            check(indices[-1] < height * width, "Range")
            rows, columns = np.divmod(indices, width)
            values = table if codec.value == REFERENCE else scale_table(codec, scale, codes, indices)
            dense[row + rows, column + columns] = values[codes]
        if codec.value == REFERENCE:
            used = sorted({code for _, codes, _ in chunks for code in codes})
            values, unused = table[used], np.delete(table.view(np.uint32), used)
            ascend, minus_zero = all(values[:-1] < values[1:]), 1 << 31 in values.view(np.uint32)
            check(ascend and all(abs(values) <= 64) and not minus_zero and not any(unused), "Table")
    stream.finish()


def read_codecs(entries, tensors):
    codecs = []
    for count, *codec in struct.iter_unpack("<IHBB", entries):
        amount, value, index = codec = Codec(*codec)
        fits = amount in (16, 32, 64) if index == GROUP_MAX else 1 <= amount <= 4096
        check(fits and SIGN2 <= value <= REFERENCE and PACKED12 <= index <= GROUP_MAX, "UnknownCodec")
        check(0 < count <= tensors - len(codecs) and codec not in codecs[-1:], "CodecRuns")
        codecs += [codec] * count
    check(len(codecs) == tensors, "CodecRuns")
    return codecs


def decode(payload, layout):
    """The tensors of a payload, zero where nothing was sent."""
    fixed = (reader := Bytes(payload)).take(152)
    magic, version, runs, tensors, sections, _round, _run, _root, digest, _hotkey = struct.unpack("<4sHHIIQ32s32s32s32s", fixed)
    check(magic == b"TRBP", "Magic")
    check(version == 2, "Version")
    check(tensors == len(layout), "Tensors")
    described = [struct.pack(f"<Q{len(name)}s{len(shape) + 1}Q", len(name), name, len(shape), *shape) for name, shape in layout]
    check(digest == derive_key("tributary 2026 layout v1", struct.pack("<Q", tensors) + b"".join(described)), "Layout")
    entries = reader.take(8 * runs)
    codecs = read_codecs(entries, tensors)
    matrices, bands = zip(*[cut(shape, codec) for (_, shape), codec in zip(layout, codecs)])
    plan = plan_sections(bands)
    check(sections == len(plan), "Sections")
    dense = [np.zeros(matrix, np.float32) for matrix in matrices]
    closing, lengths = fixed + entries, b""
    for parts in plan:
        frame = reader.take(36)
        body = reader.take(*struct.unpack("<I", frame[:4]))
        check(blake3(body) == frame[4:], "SectionHash")
        decode_section(body, parts, codecs, dense)
        closing, lengths = closing + frame, lengths + frame[:4]
    check(reader.take(4 * sections + 8) == lengths + struct.pack("<Q", len(payload)), "Footer")
    check(reader.take(32) == blake3(closing), "Hash")
    check(not reader.rest, "Trailing")
    return [tensor.reshape(shape) for tensor, (_, shape) in zip(dense, layout)]


def read_safetensors(path):
    """The layout, of names in bytes and shapes, and the tensors."""
    file = Bytes(path.read_bytes())
    header = json.loads(file.take(*struct.unpack("<Q", file.take(8))))
    entries = sorted((name.encode(), entry) for name, entry in header.items() if name != "__metadata__")
    assert all(entry["dtype"] == "F32" for _, entry in entries), "not f32"
    tensors = [np.frombuffer(file.rest[slice(*entry["data_offsets"])], "<f4").reshape(entry["shape"]) for _, entry in entries]
    return [(name, entry["shape"]) for name, entry in entries], tensors


def outcome(path, like):
    """The fault of a payload; "equal" if it is what lies in the file that gives its layout."""
    layout, stored = read_safetensors(like)
    try:
        decoded = decode(path.read_bytes(), layout)
    except Refused as fault:
        return str(fault)
    unequal = [name for (name, _), got, want in zip(layout, decoded, stored) if (got.view(np.uint32) != want.view(np.uint32)).any()]
    return f"unequal {unequal}" if unequal else "equal"


def check_folder(folder):
    cases = [(path, path.with_suffix(".safetensors"), "equal") for path in sorted(folder.glob("*.trb"))]
    lines = map(str.split, (folder / "refused/faults.txt").read_text().splitlines())
    cases += [(folder / f"refused/{name}.bad.trb", folder / f"{like}.safetensors", fault) for name, fault, like in lines]
    assert {path for path, _, _ in cases} >= set(folder.glob("refused/*.trb")), "a payload is not listed in faults.txt"
    found = [outcome(path, like) for path, like, _ in cases]
    for (path, _, expected), got in zip(cases, found):
        print(f"{path.name}: {got}" + ("" if got == expected else f", not {expected}"))
    failed = sum(got != expected for (_, _, expected), got in zip(cases, found))
    print(f"{len(cases) - failed} passed, {failed} failed")
    return failed > 0 or not cases


if __name__ == "__main__":
    sys.exit(check_folder(Path(sys.argv[1])) if len(sys.argv) == 2 else __doc__)
