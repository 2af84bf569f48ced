"""The four plain decoders once more, in float64, one position and one head at a time, from their equations.

Each takes weights by their original names as numpy arrays, the original configuration and one row of ids, and
returns logits [T, V]. Nothing here is shared with golf.
"""

import numpy as np


def rms(x, eps, gain=1.0):
    return gain * x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(scores):
    exps = np.exp(scores - scores.max())
    return exps / exps.sum()


def turn(x, place, base, sense):
    """One head vector at one place; sense +1 is R+, -1 is R-."""
    half = len(x) // 2
    out = np.empty_like(x)
    for pair in range(half):
        angle = place * float(base) ** (-2 * pair / len(x))
        a, b, c, s = x[pair], x[pair + half], np.cos(angle), sense * np.sin(angle)
        out[pair], out[pair + half] = a * c - b * s, b * c + a * s
    return out


def heads(x, width):
    return x.reshape(len(x), -1, width)


def swiglu(x, gate, up, down):
    hidden = x @ gate.T
    return (hidden * sigmoid(hidden) * (x @ up.T)) @ down.T


def get(config, name, default):
    return config.get(name, default)


def gelu_gpt(w, config, ids):
    layers, width = config["n_layer"], config["n_embd"] // config["n_head"]
    group, window = config["n_head"] // config["n_kv_head"], config["sequence_len"]
    quarter = -(-window // 4)
    short = -(-quarter // 128) * 128
    pattern = get(config, "window_pattern", "SSSL").upper()
    base, eps, time = get(config, "rope_base", 100000.0), 1e-6, len(ids)
    normed = rms(w["wte.weight"][ids], eps)
    x = normed.copy()
    for t in range(1, time):
        gate = sigmoid(normed[t, :24] @ w["smear_gate.weight"][0])
        x[t] = normed[t] + w["smear_lambda"][0] * gate * normed[t - 1]
    first = x.copy()
    for i in range(layers):
        name = f"blocks.{i}."
        x = w["resid_lambdas"][i] * x + w["x0_lambdas"][i] * first
        a = rms(x, eps)
        q, k, v = (heads(a @ w[f"{name}attn.c_{part}.weight"].T, width) for part in "qkv")
        if i % 2 == (layers - 1) % 2:
            for t in range(time):
                gate = 3 * sigmoid(a[t, :12] @ w[f"{name}attn.ve_gate.weight"].T)
                v[t] += gate[:, None] * w[f"value_embeds.{i}.weight"][ids[t]].reshape(-1, width)
        reach = window if i == layers - 1 or pattern[i % len(pattern)] == "L" else short
        y = np.zeros_like(q)
        for h in range(q.shape[1]):
            queries = [1.2 * rms(turn(q[t, h], t, base, -1), eps) for t in range(time)]
            keys = [1.2 * rms(turn(k[t, h // group], t, base, -1), eps) for t in range(time)]
            for t in range(time):
                seen = [j for j in range(t + 1) if t - j <= reach]
                weights = softmax(np.array([queries[t] @ keys[j] for j in seen]) / np.sqrt(width))
                y[t, h] = sum(share * v[j, h // group] for share, j in zip(weights, seen))
        x = x + y.reshape(time, -1) @ w[f"{name}attn.c_proj.weight"].T
        z = rms(x, eps) @ w[f"{name}mlp.c_fc.weight"].T
        if get(config, "mlp", "gelu") == "gelu":
            z = 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
        else:
            z = np.maximum(z, 0) ** 2
        x = x + z @ w[f"{name}mlp.c_proj.weight"].T
        if i == layers // 2:
            middle = x.copy()
    x = rms(x - w["backout_lambda"][0] * middle, eps)
    table = w["wte.weight"] if get(config, "tie_embeddings", True) else w["lm_head.weight"]
    return 15 * np.tanh((x @ table.T)[:, : config["vocab_size"]] / 15)


def qed(w, config, ids, mask=None):
    time, width = len(ids), config["d_model"] // config["n_heads"]
    eps, base = get(config, "rms_norm_eps", 1e-5), get(config, "rope_theta", 10000.0)
    mask = np.ones(time) if mask is None else mask

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + (w[f"{name}.bias"] if get(config, "bias", False) else 0.0)

    x = w["embed_tokens.weight"][ids]
    for i in range(config["n_layers"]):
        name = f"layers.{i}."
        a = rms(x, eps, w[f"{name}input_norm.weight"])
        q, k, v = (heads(linear(a, f"{name}attention.{part}_proj"), width) for part in "qkv")
        y = np.zeros_like(q)
        for h in range(q.shape[1]):
            for t in range(time):
                seen = [j for j in range(t + 1) if mask[j]]
                if not seen:
                    continue
                query = turn(q[t, h], t, base, 1)
                scores = [query @ turn(k[j, h], j, base, 1) / np.sqrt(width) for j in seen]
                y[t, h] = sum(share * v[j, h] for share, j in zip(softmax(np.array(scores)), seen))
        x = x + linear(y.reshape(time, -1), f"{name}attention.o_proj")
        m = rms(x, eps, w[f"{name}post_attn_norm.weight"])
        hidden = linear(m, f"{name}mlp.gate_proj")
        x = x + linear(
            hidden * sigmoid(hidden) * linear(m, f"{name}mlp.up_proj"), f"{name}mlp.down_proj"
        )
    tied = get(config, "tie_word_embeddings", True)
    table = w["embed_tokens.weight"] if tied else w["lm_head.weight"]
    return rms(x, eps, w["norm.weight"]) @ table.T + w["lm_head.bias"]


def xgqa(w, config, ids):
    time, width = len(ids), config["head_dim"]
    group = config["num_heads"] // config["num_kv_heads"]
    eps, base = get(config, "rms_norm_eps", 1e-6), get(config, "rope_theta", 2500.0)
    x = w["tok_emb.weight"][ids]
    for i in range(config["num_layers"]):
        name = f"blocks.{i}."
        a = rms(x, eps, w[f"{name}attn_norm.weight"])
        q, k, v = (heads(a @ w[f"{name}attn.{part}_proj.weight"].T, width) for part in "qkv")
        z = np.zeros_like(q)
        for h in range(q.shape[1]):
            g = h // group
            for t in range(time):
                query = turn(q[t, h], t, base, 1)
                scores = [query @ turn(k[j, g], j, base, 1) / np.sqrt(width) for j in range(t + 1)]
                y = sum(share * v[j, g] for j, share in enumerate(softmax(np.array(scores))))
                unit = v[t, g] / max(np.linalg.norm(v[t, g]), 1e-12)
                z[t, h] = y - (y @ unit) * unit
        x = x + z.reshape(time, -1) @ w[f"{name}attn.o_proj.weight"].T
        m = rms(x, eps, w[f"{name}mlp_norm.weight"])
        x = x + swiglu(m, *(w[f"{name}mlp.{part}_proj.weight"] for part in ("gate", "up", "down")))
    table = w["tok_emb.weight"] if get(config, "tie_embeddings", True) else w["lm_head.weight"]
    return rms(x, eps, w["norm.weight"]) @ table.T


def powergqa(w, config, ids):
    time, count = len(ids), config["n_heads"]
    width, group = config["dim"] // count, count // config["n_kv_heads"]
    eps, base = get(config, "norm_eps", 1e-6), get(config, "rope_theta", 10000.0)
    x = w["tok_emb.weight"][ids]
    for i in range(config["n_layers"]):
        name = f"blocks.{i}."
        a = rms(x, eps, w[f"{name}attn_norm.weight"])
        q, k, v = (heads(a @ w[f"{name}attn.{part}.weight"].T, width) for part in "qkv")
        q = rms(q, eps, w[f"{name}attn.q_norm.weight"])
        k = rms(k, eps, w[f"{name}attn.k_norm.weight"])
        pre, post = w[f"{name}attn.pre_talk"], w[f"{name}attn.post_talk"]
        y = np.zeros_like(q)
        for t in range(time):
            scores = np.zeros((count, t + 1))
            for h in range(count):
                query = turn(q[t, h], t, base, 1)
                for j in range(t + 1):
                    scores[h, j] = query @ turn(k[j, h // group], j, base, 1) / np.sqrt(width)
            mixed = [softmax(sum(scores[h] * pre[h, g] for h in range(count))) for g in range(count)]
            for g in range(count):
                weights = sum(mixed[h] * post[h, g] for h in range(count))
                gate = sigmoid(w[f"{name}attn.head_gate"].reshape(-1)[g])
                y[t, g] = gate * sum(weights[j] * v[j, g // group] for j in range(t + 1))
        taps = w[f"{name}attn.local.weight"]
        local = np.zeros_like(a) + w.get(f"{name}attn.local.bias", 0.0)
        size = taps.shape[-1]
        for t in range(time):
            for r in range(size):
                if t - (size - 1) + r >= 0:
                    local[t] += taps[:, 0, r] * a[t - (size - 1) + r]
        gate = sigmoid(w[f"{name}attn.local_gate"].reshape(-1))
        x = x + y.reshape(time, -1) @ w[f"{name}attn.o.weight"].T + gate * local
        m = rms(x, eps, w[f"{name}mlp_norm.weight"])
        x = x + swiglu(m, *(w[f"{name}mlp.{part}.weight"] for part in ("gate", "up", "down")))
    table = w["tok_emb.weight"] if get(config, "tie_embeddings", True) else w["lm_head.weight"]
    return rms(x, eps, w["norm.weight"]) @ table.T
