"""The deployed reference compressor in PyTorch, measured on the data of `codec.rs` and printed in the same rows: what our figures stand beside.

    pip install torch
    python reference.py [--shape 4096 11008] [--runs 7]

Per tensor and round: e = 0.95 e + pseudo-gradient; 64x64 chunks; the 64 values of largest magnitude of each, in no order; four
levels from the mean and the deviation of all values of the tensor; indices in 12 bits, levels in one byte each; e -= what was sent.
A record: every payload clipped to the lower median of the norms, the mean over the senders of each coordinate, one step of SGD.
"""

import argparse
import math
import os
import statistics
import time

import torch

BETA = 0.95
TILE = 64
K = 64
LEVELS = 4
SIGMAS = 6
RECORD = 20


def divisor(size):
    """The side of the chunks of a dimension: its largest divisor up to 64."""
    return next(d for d in range(min(TILE, size), 0, -1) if size % d == 0)


def chunked(tensor):
    """[rows, columns] as [tiles down, tiles across, elements of a tile]."""
    height, width = (divisor(size) for size in tensor.shape)
    tiles = tensor.view(tensor.shape[0] // height, height, tensor.shape[1] // width, width)
    return tiles.permute(0, 2, 1, 3).reshape(tiles.shape[0], tiles.shape[2], height * width)


def unchunked(chunks, shape):
    """The inverse of `chunked`."""
    height, width = (divisor(size) for size in shape)
    tiles = chunks.view(chunks.shape[0], chunks.shape[1], height, width)
    return tiles.permute(0, 2, 1, 3).reshape(shape)


def quantize(values):
    """Levels as bytes, what each of them stands for, and the shift of all."""
    shift = values.mean()
    centered = values - shift
    scale = SIGMAS * centered.norm() / math.sqrt(values.numel() - 1) / LEVELS
    if scale == 0 or not torch.isfinite(scale):
        scale = torch.ones(())
    levels = (centered / scale + LEVELS // 2).round().clamp(0, LEVELS - 1).to(torch.uint8)
    places = levels.flatten().long()
    sums = torch.zeros(LEVELS).scatter_add_(0, places, centered.flatten())
    counts = torch.bincount(places, minlength=LEVELS)
    return levels, torch.where(counts > 0, sums / counts, 0.0), shift


def pack(indices):
    """12 bits per index, two in three bytes."""
    first, second = indices.flatten().to(torch.int32).view(-1, 2).unbind(1)
    packed = torch.stack([first & 255, first >> 8 | (second & 15) << 4, second >> 4], dim=1)
    return packed.to(torch.uint8).flatten()


def unpack(packed, shape):
    """The inverse of `pack`, as the 64-bit indices that PyTorch's scatter takes."""
    low, middle, high = packed.view(-1, 3).to(torch.int64).unbind(1)
    return torch.stack([low | (middle & 15) << 8, middle >> 4 | high << 4], dim=1).view(shape)


def compress(accumulated):
    """What is sent of a tensor: packed indices, levels, what the levels stand for, and the shift."""
    chunks = chunked(accumulated)
    k = max(2, min(K, chunks.shape[-1]) & ~1)
    indices = chunks.abs().topk(k, dim=-1, sorted=False).indices
    levels, lookup, shift = quantize(chunks.gather(-1, indices))
    return pack(indices), levels, lookup, shift


def values_of(payload):
    """The values of a payload in the order of its indices."""
    _, levels, lookup, shift = payload
    return lookup[levels.long()] + shift


def scatter_mean(indices, values, shape):
    """A dense tensor of the mean over each coordinate's values."""
    height, width = (divisor(size) for size in shape)
    dense = torch.zeros(shape[0] // height, shape[1] // width, height * width)
    return unchunked(dense.scatter_reduce_(-1, indices, values, reduce="mean", include_self=False), shape)


def decompress(payload, shape):
    """The dense tensor that a payload stands for."""
    values = values_of(payload)
    return scatter_mean(unpack(payload[0], values.shape), values, shape)


def step(feedback, gradient):
    """A miner's round: moves the error feedback on and returns the payload."""
    feedback.mul_(BETA).add_(gradient)
    payload = compress(feedback)
    feedback.sub_(decompress(payload, feedback.shape))
    return payload


def merge(theta, record, lr=0.65):
    """A record's payloads into the parameters."""
    values = [values_of(payload) for payload in record]
    norms = torch.stack([one.norm() for one in values])
    clips = (norms.median() / (norms + 1e-8)).clamp(max=1.0)
    indices = [unpack(payload[0], one.shape) for payload, one in zip(record, values)]
    clipped = [one * clip for one, clip in zip(values, clips)]
    theta.sub_(scatter_mean(torch.cat(indices, -1), torch.cat(clipped, -1), theta.shape), alpha=lr)


def squared_error(accumulated, payload):
    """The squared error of the sent values over the energy of what they stand for."""
    values = values_of(payload)
    exact = chunked(accumulated).gather(-1, unpack(payload[0], values.shape))
    return ((exact - values).double().square().sum() / exact.double().square().sum()).item()


SAMPLES = {
    "Gaussian": lambda shape: torch.randn(shape),
    "Laplace": lambda shape: torch.distributions.Laplace(0.0, 1.0).sample(shape),
    "t5": lambda shape: torch.distributions.StudentT(5.0).sample(shape),
    "t3": lambda shape: torch.distributions.StudentT(3.0).sample(shape),
}


def pseudo_gradient(shape, scales, distribution="Gaussian"):
    """Independent elements under the scales of their tiles."""
    gradient = SAMPLES[distribution](torch.Size(shape))
    rows, columns = (torch.arange(size) // TILE for size in shape)
    return gradient.mul_(scales[rows][:, columns])


def speeds(work, size, runs):
    """Median and best GB/s of some bytes, with one core, then with all; the first run does not count."""
    figures = []
    for threads in [1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()]:
        torch.set_num_threads(threads)
        times = []
        for _ in range(runs + 1):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        figures += [size / seconds / 1e9 for seconds in (statistics.median(times[1:]), min(times[1:]))]
    return figures


def row(what, unit, figures, note=""):
    cells = [f"{value:.4g}" for value in figures] + [""] * (4 - len(figures))
    print("|", " | ".join([what, "PyTorch reference", unit, *cells, "", note]), "|", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=2, default=(4096, 11008))
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--rows-only", action="store_true", help="without the table's head")
    options = parser.parse_args()
    if not options.rows_only:
        print("| what | of | unit | one core | best | all cores | best | | |")
        print("|---|---|---|--:|--:|--:|--:|---|---|")

    torch.manual_seed(0)
    shape, runs = tuple(options.shape), options.runs
    size = 4 * shape[0] * shape[1]
    scales = 1e-3 * torch.exp(0.3 * torch.randn([-(-side // TILE) for side in shape]))
    feedback = torch.zeros(shape)
    for _ in range(8):
        step(feedback, pseudo_gradient(shape, scales))
    gradient = pseudo_gradient(shape, scales)
    payload = compress(feedback + gradient)
    sent = sum(part.numel() * part.element_size() for part in payload)
    row("ratio to f32", "", [size / sent], f"{8 * sent / payload[1].numel():.3f} bits per value")
    row("encode", "GB/s", speeds(lambda: step(feedback, gradient), size, runs))
    row("encode, without error feedback", "GB/s", speeds(lambda: compress(feedback), size, runs))

    target = torch.zeros(shape)
    row("copy", "GB/s", speeds(lambda: target.copy_(gradient), size, runs))
    record = [compress(pseudo_gradient(shape, scales)) for _ in range(RECORD)]
    row(f"merge of {RECORD}", "GB/s", speeds(lambda: merge(target, record), size, runs))
    for distribution in SAMPLES:
        gradient = pseudo_gradient(shape, scales, distribution)
        row(f"squared error, {distribution}", "of energy", [squared_error(gradient, compress(gradient))])


if __name__ == "__main__":
    with torch.inference_mode():
        main()
