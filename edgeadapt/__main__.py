"""``python -m edgeadapt`` is the command ``edgeadapt``; ``torchrun -m edgeadapt`` is that command
in several processes.
"""

import sys

from edgeadapt.cli import main

if __name__ == "__main__":
    sys.exit(main())
