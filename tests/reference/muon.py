"""Reference values for src/optimizers/muon.rs: four steps of a tall and a wide bank of filters, a dense weight and a bias, as
airbench94_muon makes them, with float64 matrices beside float32 ones.

Prints the values in the tests of that file. Run with any PyTorch 2: python tests/reference/muon.py
"""
import math
import torch

RATE, MOMENTUM, SGD_MOMENTUM, BIAS_RATE, HEAD_RATE, DECAY = 0.24, 0.6, 0.85, 0.053, 0.67, 0.004
SHAPES = dict(wide=(4, 2, 3, 3), tall=(6, 1, 2, 2), dense=(3, 2), bias=(3,))


def values(shape, step, name):
    """What both sides compute: step 0 is the weight, later ones gradients."""
    n = math.prod(shape)
    salt = len(name) + shape[0]
    return torch.tensor([math.sin(0.37 * i * i + salt + 1.3 * step) for i in range(n)], dtype=torch.float64).view(shape)


def newton_schulz(g):
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g / (g.norm() + 1e-7)
    if g.size(0) > g.size(1):
        x = x.T
    for _ in range(3):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    return x.T if g.size(0) > g.size(1) else x


for dtype in [torch.float64, torch.float32]:
    weights = {name: values(shape, 0, name).to(dtype) for name, shape in SHAPES.items()}
    momenta = {name: torch.zeros_like(w) for name, w in weights.items()}
    sgd = {name: w.clone().requires_grad_() for name, w in weights.items() if name in ("dense", "bias")}
    groups = [dict(params=[sgd["dense"]], lr=HEAD_RATE, weight_decay=DECAY / HEAD_RATE),
              dict(params=[sgd["bias"]], lr=BIAS_RATE, weight_decay=DECAY / BIAS_RATE)]
    rest = torch.optim.SGD(groups, lr=1.0, momentum=SGD_MOMENTUM, nesterov=True)
    for step in range(1, 5):
        share = 1.0 if step < 3 else 0.5
        for name in ("wide", "tall"):
            g = values(SHAPES[name], step, name).to(dtype)
            momenta[name].mul_(MOMENTUM).add_(g)
            look = g + MOMENTUM * momenta[name]
            w = weights[name]
            w.mul_(len(w) ** 0.5 / w.norm())
            w.add_(newton_schulz(look.reshape(len(w), -1)).view(w.shape), alpha=-RATE * share)
        for name, w in sgd.items():
            w.grad = values(SHAPES[name], step, name).to(dtype)
        rest.param_groups[0]["lr"], rest.param_groups[1]["lr"] = HEAD_RATE * share, BIAS_RATE * share
        rest.step()
    print(dtype)
    for name in SHAPES:
        w = (sgd if name in sgd else weights)[name]
        print(f"  {name}: [{', '.join(f'{v:.9}' for v in w.flatten().tolist())}]")
