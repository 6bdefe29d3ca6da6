"""Inner steps of a Llama in PyTorch: tokens per second, eager and compiled, as JSON on standard output.

    pytorch.py '{"vocab_size": 128256, ..., "tied_embeddings": true}' SEQUENCES DEVICE [--no-compile]

The same model and the same step as tributary's: RMSNorm, rotary embeddings, grouped-query attention, SwiGLU; f32 parameters; on CUDA products by
autocast, and all between them, in bf16; summed cross entropy, gradients clipped by their norm, fused AdamW. The median of the steps' times, after two
that do not count.
"""

import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

STEPS = 10


class Norm(nn.Module):
    """RMSNorm in the type of its input; autocast would make f32 of it."""

    def __init__(self, width, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        with torch.autocast(x.device.type, enabled=False):
            return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class Layer(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        hidden, width = shape["hidden_size"], shape["head_dim"]
        heads, kv_heads, inner = shape["heads"], shape["kv_heads"], shape["intermediate_size"]
        self.attention_norm = Norm(hidden, shape["norm_eps"])
        self.qkv = nn.Linear(hidden, (heads + 2 * kv_heads) * width, bias=False)
        self.output = nn.Linear(heads * width, hidden, bias=False)
        self.mlp_norm = Norm(hidden, shape["norm_eps"])
        self.gate_up = nn.Linear(hidden, 2 * inner, bias=False)
        self.down = nn.Linear(inner, hidden, bias=False)

    def attention(self, x, cos, sin):
        heads, kv_heads, width = self.shape["heads"], self.shape["kv_heads"], self.shape["head_dim"]
        batch, length, _ = x.shape
        projected = self.qkv(x).view(batch, length, -1, width).transpose(1, 2)
        query_key, value = projected.split([heads + kv_heads, kv_heads], dim=1)
        half = width // 2
        rotated = torch.cat([-query_key[..., half:], query_key[..., :half]], dim=-1)
        query_key = query_key * cos + rotated * sin
        query, key = query_key.split([heads, kv_heads], dim=1)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return self.output(attended.transpose(1, 2).reshape(batch, length, -1))

    def forward(self, x, cos, sin):
        x = x + self.attention(self.attention_norm(x), cos, sin)
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Llama(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.embedding = nn.Embedding(shape["vocab_size"], shape["hidden_size"])
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape["layers"]))
        self.norm = Norm(shape["hidden_size"], shape["norm_eps"])
        self.head = nn.Linear(shape["hidden_size"], shape["vocab_size"], bias=False)
        if shape["tied_embeddings"]:
            self.head.weight = self.embedding.weight
        width = shape["head_dim"]
        frequencies = 1 / shape["rope_theta"] ** (torch.arange(0, width, 2) / width)
        angles = torch.outer(torch.arange(shape["sequence_length"]).float(), frequencies).repeat(1, 2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens):
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        x = self.embedding(inputs)
        if x.is_cuda:
            x = x.to(torch.bfloat16)
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin)
        logits = self.head(self.norm(x)).float()
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")


def rate(model, forward, shape, sequences, device):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    length = shape["sequence_length"]
    tokens = torch.randint(shape["vocab_size"], (sequences, length + 1), device=device)
    is_cuda = device.startswith("cuda")
    times = []
    for _ in range(STEPS + 2):
        begin = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16, enabled=is_cuda):
            loss = forward(tokens) / (sequences * length)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        if is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return sequences * length / statistics.median(times[2:])


def main():
    shape, sequences, device = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    model = Llama(shape).to(device)
    rates = {"parameters": sum(p.numel() for p in model.parameters()), "eager": rate(model, model, shape, sequences, device)}
    if "--no-compile" not in sys.argv:
        try:
            rates["compiled"] = rate(model, torch.compile(model), shape, sequences, device)
        except Exception as error:  # a machine that cannot compile still has the other rate
            print(f"torch.compile: {error}", file=sys.stderr)
    print(json.dumps(rates))


main()
