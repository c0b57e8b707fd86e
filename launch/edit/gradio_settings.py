"""What gradio may know and keep, which must be in force before it is imported."""

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from ...trainer.images.decode import FORMATS

FOLDER = "GRADIO_TEMP_DIR"


@contextmanager
def own_folder() -> Iterator[None]:
    """Have gradio keep files in a temporary folder alone, which goes at the end, and send nothing about its use.

    Its other settings in the environment, such as folders to be served, hold no longer, and Pillow, with which it
    opens what visitors send, has no other decoders than ours.
    """
    Image.init()
    environment, decoders, ending = dict(os.environ), list(Image.ID), signal.getsignal(signal.SIGTERM)
    with tempfile.TemporaryDirectory(prefix="smalti-edit-") as folder:
        try:
            for name in [name for name in os.environ if name.startswith("GRADIO_")]:
                del os.environ[name]
            os.environ[FOLDER] = folder
            os.environ["GRADIO_EXAMPLES_CACHE"] = str(Path(folder) / "examples")
            os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
            Image.ID[:] = [name for name in decoders if name in FORMATS]
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the folder goes then too
            yield
        finally:
            os.environ.clear()
            os.environ.update(environment)
            Image.ID[:] = decoders
            signal.signal(signal.SIGTERM, ending)
