"""``edgeadapt build`` in a process of its own, with a TensorRT whose third build and later ones
take their time: building_child.py LIBRARY SECONDS_PER_STEP ARGUMENT...
"""

from __future__ import annotations

import os
import signal
import sys

from fake_device import FakeDevice
from fake_tensorrt import make

from edgeadapt import cli

if __name__ == "__main__":
    # whoever runs the tests in the background has it ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    library = FakeDevice(sys.argv[1])
    library.reset()
    os.environ["EDGEADAPT_CUDART"] = os.environ["EDGEADAPT_LIBCUDA"] = library.path
    sys.modules["tensorrt"] = make("10.16.2.10", library)
    sys.modules["tensorrt"].fake.step_s = float(sys.argv[2])
    sys.modules["tensorrt"].fake.slow_from = 3
    sys.exit(cli.main(sys.argv[3:]))
