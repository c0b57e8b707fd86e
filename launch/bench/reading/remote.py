"""How long a sample takes from a store that answers late."""

import functools
import http.server
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path

from ....trainer.data.crops import CropConfig
from ....trainer.data.stream import DataConfig, Stream
from ....trainer.shards.remote import RemoteConfig

_LATENCY = 0.02  # seconds
_STEPS = 24


def measure(folder: Path, cache: Path, batch: int, side: int) -> float:
    """Milliseconds by the clock for a decoded sample, with 2 workers, from a web server that answers after 20 ms."""
    with _serving(folder) as url:
        config = DataConfig(
            shards=tuple(f"{url}/{path.name}" for path in sorted(folder.glob("*.tar"))),
            crop=CropConfig(size=side),
            num_workers=2,
            max_repeats=batch,
            remote=RemoteConfig(cache=str(cache)),
        )
        stream = Stream(config, ("image", "cls"), global_batch=batch, micro_batch=batch)
        with closing(stream.train_batches()) as steps:  # type: ignore[type-var]
            for _ in islice(steps, 4):  # workers start, indexes are read
                pass
            began = time.perf_counter()
            count = sum(len(step[0]["key"]) for step in islice(steps, _STEPS))
            each = 1e3 * (time.perf_counter() - began) / count
    print(f"\nFrom a web server that answers after 20 ms, 2 workers: {each:.2f} ms each")
    return each


@contextmanager
def _serving(folder: Path) -> Iterator[str]:
    """The server in a process of its own."""
    command = [sys.executable, "-m", __name__, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.kill()


class _Late(http.server.SimpleHTTPRequestHandler):
    """Sends parts of files after a while."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # as web servers do; else a body waits 40 ms for word that its headers came

    def do_GET(self) -> None:
        time.sleep(_LATENCY)
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return self.send_error(404)
        size, first = path.stat().st_size, 0
        last = size - 1
        asked = self.headers.get("Range")
        if asked:
            begin, _, end = asked.removeprefix("bytes=").partition("-")
            first, last = int(begin), min(int(end or last), last)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        with path.open("rb") as file:
            file.seek(first)
            self.wfile.write(file.read(last - first + 1))
        return None

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def main() -> None:
    """Serves a folder until it is killed; says at which port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Late, directory=sys.argv[1]))
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
