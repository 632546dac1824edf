"""Reference values of the engine's tests, from PyTorch in float64.

    python reference.py

writes golden/NAME.safetensors beside this file: for each network the loss of one batch, the gradient of every parameter
(a sample of the large ones), and the running statistics after the pass; for the airbench recipe the loss of each of three
training steps, how far they moved every parameter, and the running statistics after them; the recipe's translations,
Dirac weights and linear schedule, and the probabilities of its test-time augmentation. Weights, images and labels are
not stored: both sides make them by the same formulas. Made with PyTorch 2.15 on a CPU; needs torch and numpy.
"""

import json
import pathlib
import struct

import numpy as np
import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
SAMPLE = 2048


def uniform(name, count):
    """count numbers in [-1, 1) that depend on the name."""
    key = sum(name.encode())
    i = np.arange(count, dtype=np.float64)
    x = np.sin(i * 12.9898 + key) * 43758.5453
    return 2.0 * (x - np.floor(x)) - 1.0


def parameter(name, shape):
    count = int(np.prod(shape))
    u = uniform(name, count)
    if name.endswith("bias"):
        values = 0.1 * u
    elif len(shape) == 1:
        values = 1.0 + 0.2 * u
    else:
        values = u * np.sqrt(3.0 / np.prod(shape[1:]))
    # Both sides round to f32 once.
    values = values.astype(np.float32).astype(np.float64)
    return torch.from_numpy(values.reshape(shape)).requires_grad_()


class Network:
    """Parameters made when they are first asked for, by name."""

    def __init__(self, training=True):
        self.training = training
        self.parameters = {}
        self.buffers = {}

    def get(self, name, shape):
        if name not in self.parameters:
            self.parameters[name] = parameter(name, shape)
        return self.parameters[name]

    def conv(self, name, x, out, kernel=3, stride=1, padding=0, bias=True):
        weight = self.get(f"{name}.weight", (out, x.shape[1], kernel, kernel))
        b = self.get(f"{name}.bias", (out,)) if bias else None
        return F.conv2d(x, weight, b, stride, padding)

    def dense(self, name, x, out, bias=True):
        x = x.flatten(1)
        weight = self.get(f"{name}.weight", (out, x.shape[1]))
        b = self.get(f"{name}.bias", (out,)) if bias else None
        return F.linear(x, weight, b)

    def norm(self, name, x, scale=True, momentum=0.1, eps=1e-5):
        channels = x.shape[1]
        mean, var = torch.zeros(channels), torch.ones(channels)
        if not self.training:
            # What stands there counts: some numbers around the usual ones.
            mean = 0.1 * parameter(f"{name}.running_mean", (channels,)).detach()
            var = parameter(f"{name}.running_var", (channels,)).detach()
        mean = self.buffers.setdefault(f"{name}.running_mean", mean)
        var = self.buffers.setdefault(f"{name}.running_var", var)
        weight = self.get(f"{name}.weight", (channels,)) if scale else None
        bias = self.get(f"{name}.bias", (channels,))
        return F.batch_norm(x, mean, var, weight, bias, training=self.training, momentum=momentum, eps=eps)


def seed(n, x):
    x = F.relu(n.conv("conv1", x, 32))
    x = F.max_pool2d(F.relu(n.conv("conv2", x, 32)), 2)
    x = F.max_pool2d(F.relu(n.conv("conv3", x, 32)), 2)
    x = F.relu(n.dense("dense1", x, 128))
    return n.dense("dense2", x, 10)


def odd(n, x):
    x = F.max_pool2d(F.relu(n.conv("conv1", x, 8, kernel=5)), 2)
    x = F.max_pool2d(F.relu(n.conv("conv2", x, 12)), 3, 2)
    x = F.relu(n.conv("conv3", x, 10, stride=2, padding=1))
    return n.dense("dense1", x, 10)


def resnet(n, x):
    for i, channels in enumerate([32, 64, 128], 1):
        x = F.relu(n.norm(f"norm{i}", n.conv(f"conv{i}", x, channels, padding=1, bias=False)))
        x = F.max_pool2d(x, 2)
        r = f"residual{i}"
        y = F.relu(n.norm(f"{r}.norm1", n.conv(f"{r}.conv1", x, channels, padding=1, bias=False)))
        y = n.norm(f"{r}.norm2", n.conv(f"{r}.conv2", y, channels, padding=1, bias=False))
        x = F.relu(x + y)
    return n.dense("dense1", x.mean((2, 3)), 10)


def shortcuts(n, x):
    x = F.relu(n.norm("norm1", n.conv("conv1", x, 8, padding=1, bias=False)))
    y = F.relu(n.norm("residual1.norm1", n.conv("residual1.conv1", x, 20, stride=2, padding=1, bias=False)))
    y = n.conv("residual1.conv2", y, 20, padding=1)
    s = n.norm("residual1.shortcut.norm1", n.conv("residual1.shortcut.conv1", x, 20, kernel=1, stride=2, bias=False))
    x = F.relu(y + s)
    x = x + F.relu(n.conv("residual2.conv1", x, 20, padding=1))
    y = n.norm("residual3.norm1", n.conv("residual3.conv1", x, 24, kernel=1, bias=False))
    s = n.norm("residual3.shortcut.norm1", n.conv("residual3.shortcut.conv1", x, 24, kernel=1, bias=False))
    x = F.max_pool2d(F.relu(y + s), 3, 2)
    x = F.relu(n.norm("norm2", n.dense("dense1", x.mean((2, 3)), 20, bias=False)))
    return n.dense("dense2", x, 10)


def airbench(n, x, scale=1 / 256):
    # A small copy: 8 and 16 channels instead of 64 and 256.
    n.get("whiten1.weight", (24, 3, 2, 2)).requires_grad_(False)
    x = F.gelu(n.conv("whiten1", x, 24, kernel=2))
    layers = 0
    for channels in [8, 16, 16]:
        for pools in [True, False]:
            layers += 1
            x = n.conv(f"conv{layers}", x, channels, padding=1, bias=False)
            x = F.max_pool2d(x, 2) if pools else x
            x = F.gelu(n.norm(f"norm{layers}", x, scale=False, momentum=0.4, eps=1e-12))
    return n.dense("dense1", F.max_pool2d(x, 3), 10, bias=False) * scale


def smooth(n, x):
    x = F.silu(n.conv("conv1", x, 8, kernel=2))
    x = F.gelu(n.conv("conv2", x, 12, kernel=4, stride=2))
    x = F.silu(n.norm("norm1", F.max_pool2d(n.conv("conv3", x, 10, padding=1, bias=False), 2)))
    return n.dense("dense2", F.silu(n.dense("dense1", x, 16)), 10)


def orthogonalised(matrix):
    """Three Newton-Schulz steps on the matrix divided by its norm."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (matrix.norm() + 1e-7)
    for _ in range(3):
        square = x @ x.T
        x = a * x + b * square @ x + c * square @ square @ x
    return x


class Muon(torch.optim.Optimizer):
    """The optimizer of airbench94_muon's filters: each bank of filters gets the norm sqrt(filters), then moves."""

    def __init__(self, filters, lr, momentum):
        super().__init__(filters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            momentum = group["momentum"]
            for p in group["params"]:
                buffer = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                buffer.copy_(momentum * buffer + p.grad)
                direction = orthogonalised((p.grad + momentum * buffer).flatten(1)).view_as(p)
                p.copy_(p * (len(p) ** 0.5 / p.norm()) - group["lr"] * direction)


def images(count, side):
    i = np.arange(count * 3 * side * side, dtype=np.uint64)
    smooth = (i // 5) % 97 * 2
    noise = (i * 2654435761 % 2**32) >> 27
    return torch.from_numpy((smooth + noise).astype(np.float64).reshape(count, 3, side, side) / 255.0)


def sample(x):
    x = x.detach().flatten().numpy()
    stride = -(-len(x) // SAMPLE) | 1
    return x[::stride] if len(x) > SAMPLE else x


def write(path, tensors, metadata):
    header, data = {"__metadata__": metadata}, b""
    for name, values in tensors.items():
        block = np.ascontiguousarray(values, dtype="<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": [len(values)], "data_offsets": [len(data), len(data) + len(block)]}
        data += block
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def case(forward, batch, side, smoothing):
    network = Network()
    labels = torch.tensor([i * 3 % 10 for i in range(batch)])
    loss = F.cross_entropy(forward(network, images(batch, side)), labels, label_smoothing=smoothing)
    loss.backward()
    tensors = {}
    for name, p in network.parameters.items():
        # What is not trained has none: then ours is exactly zero.
        grad = torch.zeros_like(p) if p.grad is None else p.grad
        tensors[f"{name}.grad"] = sample(grad)
        # The samples are held to the whole tensor's largest value.
        tensors[f"{name}.largest"] = [grad.abs().max().item() or 1.0]
    for name, b in network.buffers.items():
        tensors[name] = b.numpy()
    path = pathlib.Path(__file__).parent / "golden" / f"{forward.__name__}.safetensors"
    write(path, tensors, {"loss": repr(loss.item())})
    print(forward.__name__, loss.item(), path.stat().st_size)


def steps(batch, epochs_a_step):
    """Three steps of the airbench recipe on the small copy, whose logits are divided by its 16 features."""
    epochs, whiten_epochs, decay = 8, 3, 2e-6 * 2000
    network = Network()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.49, 0.48, 0.45], [0.25, 0.24, 0.26]))
    x = (images(3 * batch, 32) - mean) / std
    labels = torch.tensor([i * 3 % 10 for i in range(3 * batch)])
    losses, before = [], None
    for step in range(3):
        begin, end = step * batch, (step + 1) * batch
        logits = airbench(network, x[begin:end], 1 / 16)
        if before is None:
            trained = {name: p for name, p in network.parameters.items() if p.requires_grad}
            before = {name: p.detach().clone() for name, p in network.parameters.items()}
            whitening = trained["whiten1.bias"]
            biases = [p for name, p in trained.items() if name.endswith("bias") and p is not whitening]
            groups = [([whitening], 0.053), (biases, 0.053), ([trained["dense1.weight"]], 0.67)]
            sgd = torch.optim.SGD(
                [{"params": p, "lr": lr, "weight_decay": decay / lr} for p, lr in groups],
                momentum=0.85,
                nesterov=True,
            )
            muon = Muon([p for p in trained.values() if p.ndim == 4], lr=0.24, momentum=0.6)
            rates = [(group, group["lr"]) for o in (sgd, muon) for group in o.param_groups]
        loss = F.cross_entropy(logits, labels[begin:end], label_smoothing=0.2, reduction="sum")
        losses.append(loss.item() / batch)
        for p in trained.values():
            p.grad = None
        loss.backward()
        done = step * epochs_a_step
        for group, first in rates:
            length = whiten_epochs if group["params"][0] is whitening else epochs
            group["lr"] = first * (1 - done / length)
        if done >= whiten_epochs:
            # It has stopped learning.
            whitening.grad = None
        sgd.step()
        muon.step()
    tensors = {}
    for name, p in network.parameters.items():
        moved = p.detach() - before[name]
        tensors[f"{name}.moved"] = sample(moved)
        tensors[f"{name}.largest"] = [moved.abs().max().item() or 1.0]
    for name, b in network.buffers.items():
        tensors[name] = b.numpy()
    path = pathlib.Path(__file__).parent / "golden" / "steps.safetensors"
    write(path, tensors, {"loss": " ".join(map(repr, losses))})
    print("steps", losses, path.stat().st_size)


def translated(x, shift, mirrored):
    """All translations of images by up to `shift` pixels, row by row, with reflection at the edges."""
    side = x.shape[-1]
    padded = F.pad(x.flip(-1) if mirrored else x, (shift,) * 4, "reflect")
    at = range(2 * shift + 1)
    return torch.cat([padded[:, :, i : i + side, j : j + side] for i in at for j in at])


def parts():
    """Parts of the airbench recipe beside its network and its steps."""
    tensors = {}
    for mirrored in [False, True]:
        tensors[f"translated.{mirrored}"] = translated(images(1, 8), 2, mirrored).flatten().numpy()
    for shape in [(8, 3, 3, 3), (4, 4, 2, 2), (6, 5, 1, 1)]:
        # airbench: a filter for each input channel; the others stay random.
        weight = torch.nn.init.dirac_(torch.empty(shape)[: shape[1]])
        tensors[f"dirac.{shape[0]}"] = weight.flatten().numpy()
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.24)
    linear = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=50)
    rates = []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        linear.step()
    tensors["linear"] = rates
    # infer_mirror_translate of airbench94_muon: half the weight on the image, half on two translations by a pixel.
    network = Network(training=False)
    x = images(6, 32)
    padded = F.pad(x, (1,) * 4, "reflect")
    with torch.no_grad():
        logits = lambda x: airbench(network, x, 1 / 16)
        mirror = lambda x: 0.5 * logits(x) + 0.5 * logits(x.flip(-1))
        translate = 0.5 * mirror(padded[:, :, :32, :32]) + 0.5 * mirror(padded[:, :, 2:34, 2:34])
        views = {"none": logits(x), "mirror": mirror(x)}
        views["mirror+translate"] = 0.5 * views["mirror"] + 0.5 * translate
    for name, logits in views.items():
        tensors[f"tta.{name}"] = logits.softmax(1).flatten().numpy()
    path = pathlib.Path(__file__).parent / "golden" / "parts.safetensors"
    write(path, tensors, {"loss": ""})
    print("parts", path.stat().st_size)


case(seed, 8, 32, 0.0)
case(odd, 5, 31, 0.1)
case(resnet, 6, 32, 0.1)
case(shortcuts, 7, 19, 0.0)
case(airbench, 8, 32, 0.2)
case(smooth, 6, 21, 0.1)
steps(8, 1.5)
parts()
