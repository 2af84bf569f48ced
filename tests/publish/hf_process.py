"""Run by test_hf.py in a process that has no golf: every family's folder through transformers."""

import json
import os
import sys
from pathlib import Path

sys.modules["golf"] = None  # an import of it now fails
os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer  # noqa: E402


def check(folder: Path) -> dict:
    told = json.loads((folder / "expected" / "values.json").read_text())
    expected = load_file(folder / "expected" / "tensors.safetensors")
    ids, logits = expected["ids"], expected["logits"]
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    found = {"class": type(model).__name__, "parameters": model.num_parameters(), "type": config.model_type}
    found["standard"] = [config.vocab_size, config.hidden_size, config.num_hidden_layers, config.num_attention_heads]
    with torch.no_grad():
        found["logits"] = worst(model(ids).logits, logits)
        found["ones"] = worst(model(ids, attention_mask=torch.ones_like(ids), use_cache=False).logits, logits)
        places = torch.arange(ids.shape[1])[None]
        found["positions"] = worst(model(ids, position_ids=places).logits, logits)
        found["kept"] = worst(model(ids, logits_to_keep=2).logits, logits[:, -2:])
        found["cached"] = worst(chunks(model, ids, [5, 1, 1, ids.shape[1] - 7]), logits)
        labels = ids.clone()
        labels[:, :3] = -100
        found["loss"] = abs(model(ids, labels=labels).loss.item() - told["loss"])
        found["none"] = refusal(lambda: model(labels=labels))
        found["zeros"] = padded(model, ids, logits)
        found["odd"] = refusal(lambda: model(ids, inputs_embeds=logits))
        found["generated"] = generation(model, ids)
        found["beams"] = [
            model.generate(ids, max_new_tokens=6, num_beams=3, do_sample=False, use_cache=cached).tolist()
            for cached in (True, False)
        ]
        found["sampled"] = sampled(model, ids)
        model.save_pretrained(folder / "again")
        again = AutoModelForCausalLM.from_pretrained(folder / "again", trust_remote_code=True).eval()
        found["stored"] = str(AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).dtype)
        found["again"] = worst(again(ids).logits, logits)
        half = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.bfloat16).eval()
        found["half"] = [str(half.dtype), ((half(ids).logits - logits).abs().mean() / logits.std()).item()]
        found["half cached"] = half.generate(ids, max_new_tokens=4, do_sample=False).shape[1] - ids.shape[1]
    model.train()
    model(ids, labels=labels).loss.backward()
    found["gradients"] = all(p.grad is not None for p in model.parameters())
    if told["texts"]:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
        found["texts"] = [tokenizer(text)["input_ids"] for text in told["texts"]]
        found["decoded"] = [tokenizer.decode(row, skip_special_tokens=True) for row in found["texts"]]
        found["special"] = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    return found


def worst(a, b):
    return (a.float() - b).abs().max().item() if a.shape == b.shape else float("inf")


def chunks(model, ids, sizes):
    past, parts = None, []
    for part in ids.split(sizes, 1):
        out = model(part, past_key_values=past, use_cache=True)
        past = out.past_key_values
        parts.append(out.logits)
    return torch.cat(parts, 1)


def refusal(call):
    try:
        call()
    except ValueError as error:
        return str(error)
    return ""


def padded(model, ids, logits):
    """Left padding: the difference to the rows without, or what the model says instead."""
    mask = torch.ones_like(ids)
    mask = torch.cat([torch.zeros_like(ids[:, :3]), mask], 1)
    wide = torch.cat([ids[:, :3], ids], 1)
    places = torch.cat([torch.zeros_like(ids[:, :3]), torch.arange(ids.shape[1]).expand_as(ids)], 1)
    try:
        return worst(model(wide, attention_mask=mask, position_ids=places).logits[:, 3:], logits)
    except ValueError as error:
        return str(error)


def generation(model, ids):
    """Greedy, cached and not."""
    both = [
        model.generate(ids, max_new_tokens=12, do_sample=False, use_cache=cached, eos_token_id=None).tolist()
        for cached in (True, False)
    ]
    return both


def sampled(model, ids):
    torch.manual_seed(0)
    way = {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.2, "no_repeat_ngram_size": 2}
    out = model.generate(ids, max_new_tokens=8, do_sample=True, **way)
    return out.shape[1] - ids.shape[1]


if __name__ == "__main__":
    print(json.dumps({folder: check(Path(folder)) for folder in sys.argv[1:]}))
