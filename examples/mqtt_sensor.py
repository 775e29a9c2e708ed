"""A sensor that speaks MQTT, the daemon that learns its machine, and a program that hears the
answers; all three meet at a broker only.

``python mqtt_sensor.py [HOST] [PORT]``: a broker such as Mosquitto must run there (``apt-get
install mosquitto``). Vibration is simulated.
"""

import json
import sys
import threading
from pathlib import Path

import numpy as np
import paho.mqtt.client as mqtt

from edgeadapt import host
from edgeadapt.daemon.service import Service
from edgeadapt.daemon.settings import (
    ControlSection,
    LoopSection,
    MqttSink,
    MqttSource,
    PolicySection,
    Settings,
)

broker = {
    "host": sys.argv[1] if len(sys.argv) > 1 else "localhost",
    "port": int(sys.argv[2]) if len(sys.argv) > 2 else 1883,
}
names, rng = ["idle", "drilling", "milling", "worn bearing"], np.random.default_rng(0)
shapes = rng.gamma(2.0, 1.0, (4, 24))  # energy in 24 bands, one row a state of the machine


def window(state: int, wear: float = 0.0) -> np.ndarray:
    return np.log1p(
        shapes[state] * (1.0 + wear * np.linspace(0.0, 1.0, 24)) * rng.gamma(8.0, 1 / 8, 24)
    ).astype(np.float32)


y = rng.integers(0, 3, 400)  # the factory has seen no worn bearing
host.export(
    "machine.edge",
    host.Identity(24),
    (np.stack([window(k) for k in y]), y),
    names[:3],
    stress="short",
)
settings = Settings(
    bundle=Path("machine.edge"),
    state=Path("machine-state"),
    unsigned="accept",
    policy=PolicySection(new_classes="add"),
    loop=LoopSection(drop="wait"),
    control=ControlSection(listen="127.0.0.1:0"),
    source=(
        MqttSource(name="press", stream="press", topic="plant/press", format="json", **broker),
    ),
    sink=(MqttSink(name="out", topic="plant/{stream}/answers", **broker),),
)
answers, came = {}, threading.Event()


def hear(client, data, message):
    if (event := json.loads(message.payload))["event"] == "answer":
        answers[event["name"]] = event["label"]
        came.set()


listener = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
listener.on_message = hear
listener.connect(**broker)
listener.subscribe("plant/press/answers", 1)
listener.loop_start()
(service := Service(settings)).start()
states = rng.integers(0, 4, 300)
# one at a time: this sensor waits for each answer; every third window somebody says what it was
for n, state in enumerate(states):
    label = {"label": names[state]} if n % 3 == 0 and n >= 100 else {}
    message = json.dumps({"x": window(state, 1.0).tolist(), "name": str(n), **label})
    came.clear()
    # what is said before the daemon has subscribed for the first time is heard by nobody
    while not came.is_set():
        listener.publish("plant/press", message, qos=1)
        came.wait(3.0)
right = np.array([answers.get(str(n)) == names[state] for n, state in enumerate(states)])
print(
    f"{right[:100].mean():.0%} right before the first label, {right[-100:].mean():.0%} right at the"
    f" end, knows {', '.join(service.classes())}"
)
service.stop()
