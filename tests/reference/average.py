"""Reference values for src/backend/cpu/average.rs: PyTorch's AveragedModel, buffers included, of a network whose weights
and running statistics both sides compute.

Prints the values in the test of that file. Run with any PyTorch 2: python tests/reference/average.py
"""
import math
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

STEPS = 5

for decay in [0.9, 0.999]:
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Flatten(), torch.nn.Linear(48, 3))
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    for step in range(1, STEPS + 1):
        for name, tensor in network.state_dict().items():
            if tensor.dtype == torch.float32:
                values = [math.sin(i * i + 0.7 * step + len(name.split(".")[1])) for i in range(tensor.numel())]
                tensor.copy_(torch.tensor(values).view(tensor.shape))
        averaged.update_parameters(network)
    state = averaged.module.state_dict()
    names = ["0.weight", "0.bias", "0.running_mean", "0.running_var", "2.bias"]
    print(decay, [round(v, 7) for name in names for v in state[name].tolist()])
