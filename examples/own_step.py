"""A loss and an optimiser of your own: compiled and checked on the host, run on the device, where
there is no torch.
"""

import subprocess
import sys

import numpy as np


def host():
    import torch
    from torch import nn

    from edgeadapt.host import gradient_step
    from edgeadapt.host.compile import compile_step

    def focal(logits, ports):  # Lin et al., ICCV 2017: what is right already counts for little
        each = nn.functional.cross_entropy(logits, ports["y"], reduction="none")
        return (1 - torch.exp(-each)) ** 2 * each

    class RMSProp:  # s <- 0.9 s + 0.1 g^2;  p <- p - rate g / (sqrt(s) + eps)
        def state(self, parameters):
            return {f"square.{name}": torch.full_like(p, 0.01) for name, p in parameters.items()}

        def update(self, parameters, gradients, state, learning_rate):
            square = {
                f"square.{name}": 0.9 * state[f"square.{name}"] + 0.1 * g * g
                for name, g in gradients.items()
            }
            return {
                k: p - learning_rate * gradients[k] / (square[f"square.{k}"].sqrt() + 1e-6)
                for k, p in parameters.items()
            }, square

    def example(generator, batch):
        ports = {
            "x": torch.randn(batch, 16, generator=generator),
            "y": torch.randint(0, 4, (batch,), generator=generator),
        }
        return {**ports, "sample_weight": torch.ones(batch), "learning_rate": torch.tensor(0.01)}

    torch.manual_seed(0)
    step = gradient_step(
        nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 4)), focal, RMSProp()
    )
    graph = compile_step("own_step", step.fn, example, step.tensors, frozen=step.frozen)
    print(
        f"{graph.nodes} nodes, {graph.parity.cases} cases: off by {graph.parity.worst_error:.0e} of"
        f" a step at most; saved {graph.save('.')}",
        flush=True,
    )


def device():
    from edgeadapt.runtime import read_graph

    rng, step = np.random.default_rng(0), read_graph("own_step.onnx")
    centres, weight = rng.normal(0, 1, (4, 16)), np.ones(16, np.float32)
    for count in range(41):
        y = rng.integers(0, 4, 16)
        x = (centres[y] + rng.normal(0, 1, (16, 16))).astype(np.float32)
        loss = step(x=x, y=y, sample_weight=weight, learning_rate=0.01)["loss"]
        if count % 10 == 0:
            print(
                f"step {count}: loss"
                f" {loss:.3f}{'' if 'torch' in sys.modules else ', without torch'}"
            )
    step.save_state("own_step.state.safetensors")  # read_graph(..., state=this) goes on from here


if "device" in sys.argv:
    device()
else:
    host()
    subprocess.run([sys.executable, __file__, "device"], check=True)
