"""Run the train command where no file can grow beyond 30 000 bytes, as if the disk were full."""

import resource
import signal
import sys

from smalti.launch.train import main

if __name__ == "__main__":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
    sys.exit(main())
