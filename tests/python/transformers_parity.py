#!/usr/bin/env python3
"""What Python's transformers makes of an exported folder, as JSON on standard output.

    transformers_parity.py FOLDER --tokens 1,2,3     {"logits": [[...], ...]}, one row of the vocabulary's size per token, in f32
    transformers_parity.py FOLDER --text "some text" {"ids": [...], "text": "..."}, the text's token ids and what they decode to
    transformers_parity.py FOLDER --bytes            checks the byte tokenizer: ids are the bytes of UTF-8, 256 is the end of a text

Needs: pip install torch transformers
"""

import argparse
import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def logits(folder, tokens):
    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    # tied output weights are not stored, and not reported as missing
    unused = {kind: sorted(names) for kind, names in report.items() if names and kind != "error_msgs"}
    if unused:
        sys.exit(f"tensors do not fit the configuration: {unused}")
    with torch.no_grad():
        return model.eval()(torch.tensor([tokens])).logits[0].tolist()


def check_bytes(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = ["", "Hello, world!\n", "  two  spaces\t\r\n", "naïve – 日本語 🦀", "\x00\x7f", "".join(map(chr, range(0x20, 0x250))), "a" * 5000]
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert ids == list(text.encode()), text
        assert tokenizer.decode(ids) == text, text
    assert tokenizer.encode("", add_special_tokens=True) == []
    assert tokenizer.eos_token_id == 256 and tokenizer.decode([256]) == "<|endoftext|>"
    assert len(tokenizer) == 257
    print(json.dumps({"texts": len(texts)}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--tokens", type=lambda s: [int(t) for t in s.split(",")])
    task.add_argument("--text")
    task.add_argument("--bytes", action="store_true")
    arguments = parser.parse_args()
    if arguments.bytes:
        check_bytes(arguments.folder)
    elif arguments.text is not None:
        tokenizer = AutoTokenizer.from_pretrained(arguments.folder)
        ids = tokenizer.encode(arguments.text)
        print(json.dumps({"ids": ids, "text": tokenizer.decode(ids)}))
    else:
        print(json.dumps({"logits": logits(arguments.folder, arguments.tokens)}))


if __name__ == "__main__":
    main()
