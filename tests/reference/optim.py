"""Reference values for src/optimizers: PyTorch's optimizers on gradients that both sides compute.

Prints the values in the tests of that folder. Run with any PyTorch 2: python tests/reference/optim.py
"""
import math
import torch

CASES = [
    ("sgd", dict(momentum=0.0), 0.0, 0.0),
    ("sgd", dict(momentum=0.9), 0.01, 0.0),
    ("sgd", dict(momentum=0.9, nesterov=True), 0.01, 0.5),
    ("adam", {}, 0.0, 0.0),
    ("adam", {}, 0.02, 0.7),
    ("adamw", {}, 0.02, 0.0),
]
STEPS = 4

for name, extra, decay, clip in CASES:
    weight = torch.tensor([0.5 - 0.2 * i for i in range(5)], requires_grad=True)
    bias = torch.tensor([0.1, -0.1], requires_grad=True)
    groups = [dict(params=[weight], weight_decay=decay), dict(params=[bias], weight_decay=0.0)]
    if name == "sgd":
        optimizer = torch.optim.SGD(groups, lr=0.1, **extra)
    else:
        make = torch.optim.Adam if name == "adam" else torch.optim.AdamW
        optimizer = make(groups, lr=0.1, betas=(0.9, 0.999), eps=1e-7)
    norms = []
    for step in range(1, STEPS + 1):
        # The rate is halved on the way, as a person would.
        for group in optimizer.param_groups:
            group["lr"] = 0.1 if step < 3 else 0.05
        weight.grad = torch.tensor([math.sin(i + step) for i in range(5)], dtype=torch.float32)
        bias.grad = torch.tensor([math.cos(i + step) for i in range(2)], dtype=torch.float32)
        norms.append(torch.nn.utils.clip_grad_norm_([weight, bias], clip if clip > 0 else 1e30).item())
        optimizer.step()
    values = ", ".join(f"{v:.8}" for v in weight.tolist() + bias.tolist())
    print(f"{name} {extra} decay {decay} clip {clip}\n  [{values}]  last norm {norms[-1]:.8}")
