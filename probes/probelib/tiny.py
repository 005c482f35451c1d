"""A tiny Llama made on the spot: configuration, byte-level tokenizer, random weights, and its float64 reference.

Nothing is downloaded. The files are what the engines' real loaders read from a model folder.
"""

import json
import os

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 16384,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "vocab_size": 320,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
    "initializer_range": 0.02,
    "torch_dtype": "bfloat16",
    "use_cache": True,
}
AWQ_GROUP = 128


def byte_alphabet():
    """Return the printable stand-ins of the 256 bytes that byte-level tokenizers use (GPT-2's table)."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table, extra = {}, 0
    for byte in range(256):
        if byte in keep:
            table[byte] = chr(byte)
        else:
            table[byte] = chr(256 + extra)
            extra += 1
    return table


def write(folder, *, seed, awq=False):
    """Write a model folder; return the float64 weights that it stands for, on the GPU."""
    import torch
    from safetensors.torch import save_file

    os.makedirs(folder, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    hidden, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    heads, kv_heads, width = (CONFIG[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim"))

    def random(rows, columns, gain=1.0):
        return (torch.randn(rows, columns, generator=generator) * gain * columns**-0.5).bfloat16()

    exact, files = {}, {}

    def plain(name, tensor):
        files[name] = tensor.contiguous()
        exact[name] = tensor.double().cuda()

    plain("model.embed_tokens.weight", torch.randn(CONFIG["vocab_size"], hidden, generator=generator).bfloat16())
    plain("lm_head.weight", random(CONFIG["vocab_size"], hidden, 2.0))
    plain("model.norm.weight", (1 + 0.1 * torch.randn(hidden, generator=generator)).bfloat16())
    for layer in range(CONFIG["num_hidden_layers"]):
        base = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            plain(f"{base}.{norm}.weight", (1 + 0.1 * torch.randn(hidden, generator=generator)).bfloat16())
        for name, rows, columns in (
            ("self_attn.q_proj", heads * width, hidden), ("self_attn.k_proj", kv_heads * width, hidden),
            ("self_attn.v_proj", kv_heads * width, hidden), ("self_attn.o_proj", hidden, heads * width),
            ("mlp.gate_proj", inner, hidden), ("mlp.up_proj", inner, hidden), ("mlp.down_proj", hidden, inner),
        ):  # fmt: skip
            # Strong queries and keys: attention must look somewhere for a broken one to show in the logits.
            weight = random(rows, columns, 2.0 if "q_proj" in name or "k_proj" in name else 1.0)
            if not awq:
                plain(f"{base}.{name}.weight", weight)
                continue
            from probelib.int4 import pack_awq, quantise

            codes, scales, zeros, values = quantise(weight.T.half().contiguous(), AWQ_GROUP, zero_points=True)
            files[f"{base}.{name}.qweight"] = pack_awq(codes)
            files[f"{base}.{name}.qzeros"] = pack_awq(zeros)
            files[f"{base}.{name}.scales"] = scales.half().contiguous()
            exact[f"{base}.{name}.weight"] = values.T.double().cuda()
    save_file(files, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    config = dict(CONFIG)
    if awq:
        config["torch_dtype"] = "float16"
        config["quantization_config"] = {
            "quant_method": "awq", "bits": 4, "group_size": AWQ_GROUP, "zero_point": True, "version": "gemm",
        }  # fmt: skip
    dump(folder, "config.json", config)
    dump(folder, "generation_config.json", {"bos_token_id": 256, "eos_token_id": 257, "do_sample": False})
    write_tokenizer(folder)
    return exact


def write_tokenizer(folder):
    alphabet = byte_alphabet()
    vocabulary = {character: byte for byte, character in alphabet.items()}
    special = {"<s>": 256, "</s>": 257, "<pad>": 258}
    dump(folder, "tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [
            {"id": number, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True} for text, number in special.items()
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                  "vocab": {**vocabulary, **special}, "merges": []},
    })  # fmt: skip
    dump(folder, "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>",
        "model_max_length": CONFIG["max_position_embeddings"], "clean_up_tokenization_spaces": False,
    })  # fmt: skip
    dump(folder, "special_tokens_map.json", {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"})


def dump(folder, name, value):
    with open(os.path.join(folder, name), "w") as file:
        json.dump(value, file, ensure_ascii=False)


def log_probabilities(weights, tokens):
    """Return float64 log-probabilities [len(tokens), vocabulary] of what follows each token."""
    import torch

    from probelib.reference import attention, rms_norm, rope_neox, silu_and_mul

    heads, kv_heads, width = (CONFIG[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    eps = CONFIG["rms_norm_eps"]
    ids = torch.tensor(tokens, device="cuda")
    positions = torch.arange(len(tokens), device="cuda")
    x = weights["model.embed_tokens.weight"][ids]
    for layer in range(CONFIG["num_hidden_layers"]):
        base = f"model.layers.{layer}"
        y = rms_norm(x, weights[f"{base}.input_layernorm.weight"], eps)
        q, k, v = (y @ weights[f"{base}.self_attn.{name}_proj.weight"].T for name in "qkv")
        q = rope_neox(q.view(len(tokens), heads, width), positions, base=CONFIG["rope_theta"])
        k = rope_neox(k.view(len(tokens), kv_heads, width), positions, base=CONFIG["rope_theta"])
        mixed = attention(q, k, v.view(len(tokens), kv_heads, width)).flatten(1)
        x = x + mixed @ weights[f"{base}.self_attn.o_proj.weight"].T
        y = rms_norm(x, weights[f"{base}.post_attention_layernorm.weight"], eps)
        gate_up = torch.cat([y @ weights[f"{base}.mlp.{name}_proj.weight"].T for name in ("gate", "up")], -1)
        x = x + silu_and_mul(gate_up) @ weights[f"{base}.mlp.down_proj.weight"].T
    logits = rms_norm(x, weights["model.norm.weight"], eps) @ weights["lm_head.weight"].T
    return torch.log_softmax(logits, -1)
