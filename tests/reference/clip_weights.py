"""Deterministic random CLIP weights, and the OpenAI-name -> transformers-name map.

Brought in from the project's golden folder (golden/clip_weights.py), trimmed to what the tests use, together
with mmrl-tiny.npz: figures recorded from one training step of the authors' MMRL code (yunncheng/MMRL at
27d8821, run unmodified on CPU in fp32) on `clip_state_dict("tiny", 0)`; its `meta` entry holds the settings.

No reference code and no download is needed: every tensor is drawn from its own counter-based
generator keyed by (seed, crc32(name)), so a run of the reference code and a test of
our own implementation can each make the same 150M-parameter CLIP instead of shipping it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Arch:
    embed: int
    image: int
    patch: int
    v_layers: int
    v_width: int
    t_layers: int
    t_width: int
    context: int = 77
    vocab: int = 49408  # the reference tokenizer's ids reach 49407, so the table cannot be smaller

    @property
    def grid(self) -> int:
        return self.image // self.patch


# Heads are width // 64 on both sides in every OpenAI-derived repository.
ARCHS = {
    "tiny": Arch(embed=64, image=64, patch=16, v_layers=4, v_width=128, t_layers=4, t_width=128),
}


def _draw(name: str, shape, std: float, seed: int, mean: float = 0.0) -> torch.Tensor:
    key = (seed << 32) | zlib.crc32(name.encode())
    gen = np.random.Generator(np.random.Philox(key=key))
    x = gen.standard_normal(size=shape, dtype=np.float32) * np.float32(std) + np.float32(mean)
    # OpenAI checkpoints are fp16 on disk, and the reference casts through fp16 when it loads:
    # rounding here makes that cast exact.
    return torch.from_numpy(np.asarray(x, dtype=np.float16).astype(np.float32).reshape(shape))


def clip_state_dict(arch: str | Arch, seed: int = 0) -> dict[str, torch.Tensor]:
    """OpenAI-layout state dict. Biases and LayerNorm affines are random too: a real
    initialisation (0 and 1) would hide a mis-mapped bias."""
    a = ARCHS[arch] if isinstance(arch, str) else arch
    sd: dict[str, torch.Tensor] = {}

    def put(name, shape, std, mean=0.0):
        sd[name] = _draw(name, shape, std, seed, mean)

    def blocks(prefix, layers, width):
        proj_std = width**-0.5 * (2 * layers) ** -0.5
        for i in range(layers):
            p = f"{prefix}.resblocks.{i}"
            put(f"{p}.attn.in_proj_weight", (3 * width, width), 1.5 * width**-0.5)
            put(f"{p}.attn.in_proj_bias", (3 * width,), 0.05)
            put(f"{p}.attn.out_proj.weight", (width, width), 2 * proj_std)
            put(f"{p}.attn.out_proj.bias", (width,), 0.05)
            for ln in ("ln_1", "ln_2"):
                put(f"{p}.{ln}.weight", (width,), 0.1, 1.0)
                put(f"{p}.{ln}.bias", (width,), 0.05)
            put(f"{p}.mlp.c_fc.weight", (4 * width, width), width**-0.5)
            put(f"{p}.mlp.c_fc.bias", (4 * width,), 0.05)
            put(f"{p}.mlp.c_proj.weight", (width, 4 * width), 2 * proj_std)
            put(f"{p}.mlp.c_proj.bias", (width,), 0.05)

    put("visual.class_embedding", (a.v_width,), a.v_width**-0.5)
    put("visual.positional_embedding", (a.grid**2 + 1, a.v_width), a.v_width**-0.5)
    put("visual.proj", (a.v_width, a.embed), a.v_width**-0.5)
    put("visual.conv1.weight", (a.v_width, 3, a.patch, a.patch), (3 * a.patch**2) ** -0.5)
    for ln in ("ln_pre", "ln_post"):
        put(f"visual.{ln}.weight", (a.v_width,), 0.1, 1.0)
        put(f"visual.{ln}.bias", (a.v_width,), 0.05)
    blocks("visual.transformer", a.v_layers, a.v_width)
    put("token_embedding.weight", (a.vocab, a.t_width), 0.02)
    put("positional_embedding", (a.context, a.t_width), 0.01)
    blocks("transformer", a.t_layers, a.t_width)
    put("ln_final.weight", (a.t_width,), 0.1, 1.0)
    put("ln_final.bias", (a.t_width,), 0.05)
    put("text_projection", (a.t_width, a.embed), a.t_width**-0.5)
    sd["logit_scale"] = torch.tensor(float(np.log(100.0)))  # what released CLIP checkpoints hold
    return sd


def to_hf(sd: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """OpenAI / reference state dict -> transformers.CLIPModel state dict."""
    out: dict[str, torch.Tensor] = {}

    def block(src, dst):
        w, b = sd[f"{src}.attn.in_proj_weight"], sd[f"{src}.attn.in_proj_bias"]
        for name, wi, bi in zip("qkv", w.chunk(3), b.chunk(3), strict=True):
            out[f"{dst}.self_attn.{name}_proj.weight"] = wi.clone()
            out[f"{dst}.self_attn.{name}_proj.bias"] = bi.clone()
        for s, d in (
            ("attn.out_proj", "self_attn.out_proj"),
            ("ln_1", "layer_norm1"),
            ("ln_2", "layer_norm2"),
            ("mlp.c_fc", "mlp.fc1"),
            ("mlp.c_proj", "mlp.fc2"),
        ):
            for t in ("weight", "bias"):
                out[f"{dst}.{d}.{t}"] = sd[f"{src}.{s}.{t}"].clone()

    n_v = 1 + max(int(k.split(".")[3]) for k in sd if k.startswith("visual.transformer.resblocks."))
    n_t = 1 + max(int(k.split(".")[2]) for k in sd if k.startswith("transformer.resblocks."))
    for i in range(n_v):
        block(f"visual.transformer.resblocks.{i}", f"vision_model.encoder.layers.{i}")
    for i in range(n_t):
        block(f"transformer.resblocks.{i}", f"text_model.encoder.layers.{i}")
    v, t = "vision_model", "text_model"
    out[f"{v}.embeddings.class_embedding"] = sd["visual.class_embedding"].clone()
    out[f"{v}.embeddings.patch_embedding.weight"] = sd["visual.conv1.weight"].clone()
    out[f"{v}.embeddings.position_embedding.weight"] = sd["visual.positional_embedding"].clone()
    for s, d in (
        ("visual.ln_pre", f"{v}.pre_layrnorm"),  # the misspelling is transformers' own
        ("visual.ln_post", f"{v}.post_layernorm"),
        ("ln_final", f"{t}.final_layer_norm"),
    ):
        for p in ("weight", "bias"):
            out[f"{d}.{p}"] = sd[f"{s}.{p}"].clone()
    out[f"{t}.embeddings.token_embedding.weight"] = sd["token_embedding.weight"].clone()
    out[f"{t}.embeddings.position_embedding.weight"] = sd["positional_embedding"].clone()
    # the two projections are x @ P in the reference and nn.Linear in transformers
    out["visual_projection.weight"] = sd["visual.proj"].t().contiguous()
    out["text_projection.weight"] = sd["text_projection"].t().contiguous()
    out["logit_scale"] = sd["logit_scale"].clone()
    return out


def hf_config(arch: str | Arch):
    from transformers import CLIPConfig

    a = ARCHS[arch] if isinstance(arch, str) else arch
    return CLIPConfig(
        projection_dim=a.embed,
        vision_config={
            "hidden_size": a.v_width,
            "intermediate_size": 4 * a.v_width,
            "num_hidden_layers": a.v_layers,
            "num_attention_heads": a.v_width // 64,
            "image_size": a.image,
            "patch_size": a.patch,
            "projection_dim": a.embed,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
        },
        text_config={
            "hidden_size": a.t_width,
            "intermediate_size": 4 * a.t_width,
            "num_hidden_layers": a.t_layers,
            "num_attention_heads": a.t_width // 64,
            "vocab_size": a.vocab,
            "max_position_embeddings": a.context,
            "projection_dim": a.embed,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
            "bos_token_id": 49406,
            "eos_token_id": 49407,
            "pad_token_id": 49407,
        },
    )


def hf_model(arch: str | Arch, sd: dict[str, torch.Tensor]):
    from transformers import CLIPModel

    model = CLIPModel(hf_config(arch)).eval()
    missing, unexpected = model.load_state_dict(to_hf(sd), strict=False)
    missing = [k for k in missing if not k.endswith("position_ids")]
    assert not missing, missing
    assert not unexpected, unexpected
    return model
