"""GPT-2 and its training in plain PyTorch: what the library is compared with.

Written from the papers and from the contracts in include/tessera (models.h,
passes.h, train.h), not from the library's sources. Parameters are a dict under
Hugging Face's names; the precision is that of the parameters.
"""

import math

import torch
import torch.nn.functional as F

NORM_EPS = 1e-5


def logits(params, tokens, layers, heads):
    """(B, T) tokens -> (B, T, V)."""
    batch, length = tokens.shape

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], params[name + ".weight"], params[name + ".bias"], NORM_EPS)

    def linear(x, name):
        return x @ params[name + ".weight"] + params[name + ".bias"]

    x = params["wte.weight"][tokens] + params["wpe.weight"][:length]
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    for layer in range(layers):
        block = f"h.{layer}."
        qkv = linear(norm(x, block + "ln_1"), block + "attn.c_attn")
        # (3, B, H, T, D)
        q, k, v = qkv.view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        weights = scores.masked_fill(future, -math.inf).softmax(-1)
        y = (weights @ v).transpose(1, 2).reshape(x.shape)
        x = x + linear(y, block + "attn.c_proj")
        y = linear(norm(x, block + "ln_2"), block + "mlp.c_fc")
        x = x + linear(F.gelu(y, approximate="tanh"), block + "mlp.c_proj")
    return norm(x, "ln_f") @ params["wte.weight"].T


def rate(step, peak, floor, warmup, steps):
    """Learning rate of a step counted from 1."""
    if step <= warmup:
        return peak * step / warmup
    progress = (step - warmup) / (steps - warmup)
    return floor + (peak - floor) * (1 + math.cos(math.pi * progress)) / 2


def train(params, samples, case, dtype):
    """Follows a run of the library in `dtype` from its initial parameters.

    samples: (count, seq + 1). Returns the first batch's logits and loss, the
    first step's gradients, and each step's loss, rate and norm.
    """
    params = {name: value.to(dtype, copy=True).requires_grad_() for name, value in params.items()}
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in params.values() if p.dim() > 1], "weight_decay": case.weight_decay},
            {"params": [p for p in params.values() if p.dim() == 1], "weight_decay": 0.0},
        ],
        betas=(case.beta1, case.beta2),
        eps=case.eps,
    )
    global_batch = case.batch * case.accumulate
    found = {"losses": [], "rates": [], "norms": []}
    for step in range(case.steps):
        optimizer.zero_grad()
        loss = 0.0
        for micro in range(case.accumulate):
            first = step * global_batch + micro * case.batch
            rows = samples[first : first + case.batch]
            out = logits(params, rows[:, :-1], case.layers, case.heads)
            part = F.cross_entropy(out.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum")
            part = part / (global_batch * case.seq)
            part.backward()
            loss += part.item()
            if step == 0 and micro == 0:
                found["logits"] = out.detach()
                found["loss"] = part.detach() * case.accumulate
        if step == 0:
            found["grad"] = {name: p.grad.clone() for name, p in params.items()}
        lr = rate(step + 1, case.lr, case.min_lr, case.warmup, case.steps)
        for group in optimizer.param_groups:
            group["lr"] = lr
        norm = torch.nn.utils.clip_grad_norm_(params.values(), case.clip)
        optimizer.step()
        found["losses"].append(loss)
        found["rates"].append(lr)
        found["norms"].append(norm.item())
    found["final"] = {name: p.detach() for name, p in params.items()}
    return found
