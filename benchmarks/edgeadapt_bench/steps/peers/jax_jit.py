"""The adaptor step in JAX: gradient and update in one ``jax.jit`` that gives its old parameters
away (``donate_argnums``).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from job_server import serve
from step_protocol import StepInputs, steps_of

Tree = dict[str, jax.Array]


class Jax:
    def __init__(self, step_inputs: StepInputs) -> None:
        self.facts: dict[str, Any] = {"jax": jax.__version__}
        self.step_inputs = step_inputs
        eps, rate, beta = (step_inputs.settings[name] for name in ("eps", "learning_rate", "beta"))

        def loss(p: Tree, x: jax.Array, y: jax.Array) -> jax.Array:
            centred = x - x.mean(1, keepdims=True)
            normed = (
                centred
                * jax.lax.rsqrt((centred * centred).mean(1, keepdims=True) + eps)
                * p["norm.gain"]
                + p["norm.offset"]
            )
            inner = jax.nn.gelu(normed @ p["down.weight"].T + p["down.bias"], approximate=False)
            logits = (x + inner @ p["up.weight"].T + p["up.bias"]) @ p["head.weight"].T + p[
                "head.bias"
            ]
            chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1)
            return -chosen.mean()

        def step(p: Tree, v: Tree, x: jax.Array, y: jax.Array) -> tuple[Tree, Tree, jax.Array]:
            value, slopes = jax.value_and_grad(loss)(p, x, y)
            v = {name: beta * v[name] + slopes[name] for name in p}
            return {name: p[name] - rate * v[name] for name in p}, v, value

        self.run = jax.jit(step, donate_argnums=(0, 1))
        self.inputs = [step_inputs.at(index) for index in range(step_inputs.count)]
        for given in self.inputs:
            given["y"] = given["y"].astype(np.int32)  # JAX has no 64-bit integers unless asked
        self.reset()

    def reset(self) -> None:
        self.p = {name: jnp.array(value) for name, value in self.step_inputs.start.items()}
        self.v = {name: jnp.zeros_like(value) for name, value in self.p.items()}

    def step(self, index: int) -> float:
        given = self.inputs[index % len(self.inputs)]
        self.p, self.v, value = self.run(self.p, self.v, given["x"], given["y"])
        return float(value)

    def parameters(self) -> dict[str, np.ndarray]:
        return {name: np.array(value) for name, value in self.p.items()}


if __name__ == "__main__":
    serve(steps_of(Jax))
