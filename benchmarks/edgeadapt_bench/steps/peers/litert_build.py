"""Writes ``litert.tflite``: the adaptor step as a ``train`` signature with its parameters and
velocities in resource variables.

TensorFlow Lite has no ``Erf``, so the backward pass is written by hand: the derivative of GELU is
``Phi(a) + a phi(a)`` with ``Phi(a) = gelu(a) / a``. Runs with TensorFlow; what it writes runs
without.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf


class Trainable(tf.Module):
    """``train`` takes one step; ``restore`` sets the parameters and clears the velocities; ``save``
    gives the parameters.
    """

    def __init__(self, start: dict[str, np.ndarray], rate: float, beta: float, eps: float) -> None:
        super().__init__()
        self.names = list(start)
        self.p = {
            name: tf.Variable(value, name=name.replace(".", "_")) for name, value in start.items()
        }
        self.v = {
            name: tf.Variable(tf.zeros_like(value), name="velocity_" + name.replace(".", "_"))
            for name, value in start.items()
        }
        self.rate, self.beta, self.eps = rate, beta, eps

    def train(self, x: tf.Tensor, y: tf.Tensor) -> dict[str, tf.Tensor]:
        p = {name: variable.read_value() for name, variable in self.p.items()}
        centred = x - tf.reduce_mean(x, 1, keepdims=True)
        hat = centred * tf.math.rsqrt(
            tf.reduce_mean(centred * centred, 1, keepdims=True) + self.eps
        )
        normed = hat * p["norm.gain"] + p["norm.offset"]
        before = tf.matmul(normed, p["down.weight"], transpose_b=True) + p["down.bias"]
        inner = tf.nn.gelu(before, approximate=False)
        adapted = x + tf.matmul(inner, p["up.weight"], transpose_b=True) + p["up.bias"]
        logits = tf.matmul(adapted, p["head.weight"], transpose_b=True) + p["head.bias"]
        logs = tf.nn.log_softmax(logits)
        hot = tf.one_hot(y, logits.shape[1], dtype=tf.float32)
        loss = -tf.reduce_sum(hot * logs) * (1.0 / x.shape[0])
        d_logits = (tf.exp(logs) - hot) * (1.0 / x.shape[0])
        d_adapted = tf.matmul(d_logits, p["head.weight"])
        d_inner = tf.matmul(d_adapted, p["up.weight"])
        is_zero = tf.abs(before) < 1e-6
        share = tf.where(
            is_zero,
            0.5 * tf.ones_like(before),
            inner / tf.where(is_zero, tf.ones_like(before), before),
        )
        d_before = d_inner * (
            share + before * tf.exp(-0.5 * before * before) * (1.0 / math.sqrt(2.0 * math.pi))
        )
        d_normed = tf.matmul(d_before, p["down.weight"])
        slopes = {
            "norm.gain": tf.reduce_sum(d_normed * hat, 0),
            "norm.offset": tf.reduce_sum(d_normed, 0),
            "down.weight": tf.matmul(d_before, normed, transpose_a=True),
            "down.bias": tf.reduce_sum(d_before, 0),
            "up.weight": tf.matmul(d_adapted, inner, transpose_a=True),
            "up.bias": tf.reduce_sum(d_adapted, 0),
            "head.weight": tf.matmul(d_logits, adapted, transpose_a=True),
            "head.bias": tf.reduce_sum(d_logits, 0),
        }
        for name in self.names:
            velocity = self.beta * self.v[name].read_value() + slopes[name]
            self.v[name].assign(velocity)
            self.p[name].assign(p[name] - self.rate * velocity)
        return {"loss": loss}

    def restore(self, **values: tf.Tensor) -> dict[str, tf.Tensor]:
        for name in self.names:
            value = values[name.replace(".", "_")]
            self.p[name].assign(value)
            self.v[name].assign(tf.zeros_like(value))
        return {"done": tf.constant(1.0)}

    def save(self) -> dict[str, tf.Tensor]:
        return {name.replace(".", "_"): variable.read_value() for name, variable in self.p.items()}


def main(folder: Path) -> None:
    settings = json.loads((folder / "settings.json").read_text())
    with np.load(folder / "start.npz") as given:
        start = {name: given[name] for name in given.files}
    with np.load(folder / "inputs.npz") as given:
        batch, width = given["x"].shape[1:]
    module = Trainable(start, settings["learning_rate"], settings["beta"], settings["eps"])
    train = tf.function(module.train).get_concrete_function(
        tf.TensorSpec([batch, width], tf.float32), tf.TensorSpec([batch], tf.int32)
    )
    shapes = {
        name.replace(".", "_"): tf.TensorSpec(value.shape, tf.float32, name.replace(".", "_"))
        for name, value in start.items()
    }
    restore = tf.function(module.restore).get_concrete_function(**shapes)
    save = tf.function(module.save).get_concrete_function()
    signatures = {"train": train, "restore": restore, "save": save}
    saved = folder / "litert_saved_model"
    tf.saved_model.save(module, str(saved), signatures=signatures)
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(saved), signature_keys=list(signatures)
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    converter.experimental_enable_resource_variables = True
    (folder / "litert.tflite").write_bytes(converter.convert())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
