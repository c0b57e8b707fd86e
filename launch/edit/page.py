"""The page of ``smalti edit --serve``: a map to draw on, previews, candidates, downloads. The only door to gradio."""

import html
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastapi
import gradio as gr
import numpy as np
import torch
import uvicorn
from PIL import Image
from starlette.middleware.trustedhost import TrustedHostMiddleware

from ...models.pixel_range import to_levels
from ...trainer.editing.job import EditJob
from ...trainer.editing.photo import as_image, read_map, read_photo
from ...trainer.editing.session import EditSession
from ...trainer.editing.strokes import AGAIN, Strokes, read_strokes
from ...trainer.images.decode import LARGEST, Pixels
from ...trainer.images.known_values import Check
from ...trainer.training.color_maps import KNOWN, palette
from .. import command
from .gradio_settings import FOLDER

LOOPBACK = ("127.0.0.1", "localhost")
HOW = (
    "Choose a class at the brush and draw on the map. White makes a place anew as what it is. "
    "The preview shows what the low-resolution guide makes of it."
)
STROKES = 30  # radii of a new brush across the shorter side of a map
CSS = """
.swatch { display: inline-block; white-space: nowrap; margin-right: 1em }
.swatch i { display: inline-block; width: 1.2em; height: 1.2em; margin-right: .3em; vertical-align: text-bottom;
  border: 1px solid #888 }
#map button.color { border: 1px solid #888 }
#photo img, #preview img { width: 100%; height: 100%; object-fit: contain }
#preview img { image-rendering: pixelated }
"""


class Page:
    """What the page shows, and what answers to its buttons; every visitor has an ``EditSession``.

    Args:
        job: that edits.
        known: how many labels it knows.
        check: of the labels of maps.
        start: the photo and the map that the page opens with, if any.
        seed: that the page begins with.
    """

    def __init__(
        self, job: EditJob, known: int, check: Check, start: tuple[Path, Path] | None, seed: int
    ) -> None:
        self.job, self.check, self.start = job, check, start
        self.palette = to_levels(palette(torch.device("cpu"))).byte().numpy()  # (256, 3)
        self.colors = self.palette[: min(known, KNOWN)]
        with gr.Blocks(title="smalti edit", analytics_enabled=False) as self.blocks:
            self._lay_out(seed)
            self._connect()

    def _lay_out(self, seed: int) -> None:
        self.session, self.chosen = gr.State(None), gr.State(-1)
        with gr.Accordion("photo and map", open=self.start is None), gr.Row():
            self.image = gr.File(label="photo", type="filepath", elem_id="image", height=110)
            self.segmentation = gr.File(label="its label map", type="filepath", elem_id="segmentation", height=110)
            self.open = gr.Button("open", elem_id="open")
        self.said = gr.HTML(_said(HOW), elem_id="said")
        with gr.Row():
            with gr.Column(scale=3):
                self.map = gr.ImageEditor(
                    label="map", type="numpy", image_mode="RGBA", format="png", sources=(), transforms=(), buttons=[],
                    layers=gr.LayerOptions(allow_additional_layers=False), height=620, elem_id="map",
                    brush=self._brush(STROKES),
                )  # fmt: skip
                self.legend = gr.HTML(elem_id="legend")
            with gr.Column(scale=2):
                self.photo = gr.Image(
                    label="photo", interactive=False, buttons=["fullscreen"], height=300, elem_id="photo"
                )
                self.preview = gr.Image(
                    label="preview", interactive=False, buttons=[], height=300, elem_id="preview"
                )
        with gr.Row():
            self.seed = gr.Number(seed, label="seed", precision=0, minimum=0, elem_id="seed")
            self.sample = gr.Button("make candidates", variant="primary", elem_id="sample")
            self.keep = gr.Button("keep the chosen one", elem_id="keep")
            self.undo = gr.Button("undo", elem_id="undo")
            self.image_file = gr.DownloadButton("download the photo", elem_id="image-file")
            self.map_file = gr.DownloadButton("download the map", elem_id="map-file")
        self.gallery = gr.Gallery(
            label="candidates, the likeliest first", columns=4, object_fit="contain", interactive=False, buttons=[],
            elem_id="candidates",
        )  # fmt: skip

    def _connect(self) -> None:
        every = [self.session, self.chosen, self.map, self.photo, self.preview, self.gallery, self.said, self.legend,
                 self.image_file, self.map_file]  # fmt: skip
        # The networks work for one at a time.
        alone = {"concurrency_id": "networks", "concurrency_limit": 1}
        if self.start is not None:
            self.blocks.load(self._opened_at_start, None, every)
        self.open.click(self._opened, [self.image, self.segmentation], every)
        drawn = [self.session, self.map, self.seed]
        self.map.input(self._previewed, drawn, [self.preview, self.said], trigger_mode="always_last", **alone)
        self.sample.click(self._sampled, drawn, [self.gallery, self.chosen, self.said], **alone)
        self.gallery.select(self._chosen, None, [self.chosen])
        self.keep.click(self._kept, [self.session, self.chosen], every)
        self.undo.click(self._undone, [self.session], every)

    def _opened_at_start(self) -> dict[Any, Any]:
        return self._opened(*map(str, self.start or ()))

    def _opened(self, image: str | None, segmentation: str | None) -> dict[Any, Any]:
        def work() -> dict[Any, Any]:
            if image is None or segmentation is None:
                raise ValueError("two files are needed: a photo, and its label map")
            photo = read_photo(Path(image))
            labels = read_map(Path(segmentation), photo, self.check)
            return self._shown(EditSession(Path(image).stem, photo, labels), HOW)

        return self._answered(work, image, segmentation)

    def _previewed(self, session: EditSession | None, drawn: Any, seed: float) -> dict[Any, Any]:
        def work() -> dict[Any, Any]:
            if session is None:
                return {self.preview: None}
            edit = session.edit(self._strokes(session, drawn))
            if not edit.masked.any():
                return {self.preview: None}
            preview = self.job.preview(edit, int(seed), lambda _: None)
            return {self.preview: preview, self.said: _said(f"{int(edit.masked.sum())} pixels will be made anew.")}

        return self._answered(work)

    def _sampled(
        self, session: EditSession | None, drawn: Any, seed: float, progress: Any = gr.Progress()  # noqa: B008
    ) -> dict[Any, Any]:  # fmt: skip
        def work() -> dict[Any, Any]:
            if session is None:
                raise ValueError("open a photo and its label map first")
            strokes = self._strokes(session, drawn)
            session.sample(self.job, strokes, int(seed), lambda state: progress((state.filled, state.cells)))
            shown = [
                (as_image(candidate.colors, session.current.photo), f"{rank}: {candidate.likelihood:.1f} nats")
                for rank, candidate in enumerate(session.candidates, start=1)
            ]
            said = _said("Choose a candidate and keep it, draw on, or try another seed.")
            return {self.gallery: gr.Gallery(shown, selected_index=None), self.chosen: -1, self.said: said}

        return self._answered(work)

    @staticmethod
    def _chosen(event: gr.SelectData) -> int:
        return int(event.index)

    def _kept(self, session: EditSession | None, chosen: int) -> dict[Any, Any]:
        def work() -> dict[Any, Any]:
            if session is None:
                raise ValueError("open a photo and its label map first")
            session.keep(chosen)
            return self._shown(session, "Kept. Draw on from here, or undo.")

        return self._answered(work)

    def _undone(self, session: EditSession | None) -> dict[Any, Any]:
        def work() -> dict[Any, Any]:
            if session is None:
                raise ValueError("open a photo and its label map first")
            session.undo()
            return self._shown(session, "This is how it was before.")

        return self._answered(work)

    def _answered(self, work: Callable[[], dict[Any, Any]], *uploads: str | None) -> dict[Any, Any]:
        """What its work gives, or what was wrong as a sentence; folders of uploads mean nothing to who uploaded."""
        try:
            return work()
        except (OSError, ValueError) as error:
            text = str(error)
            for upload in filter(None, uploads):
                text = text.replace(f"{Path(upload).parent}/", "")
            return {self.said: _said(text, wrong=True)}

    def _strokes(self, session: EditSession, drawn: Any) -> Strokes:
        layers = [] if drawn is None else [layer for layer in drawn["layers"] if layer is not None]
        return read_strokes(layers, session.current.labels, self.colors)

    def _shown(self, session: EditSession, said: str) -> dict[Any, Any]:
        """Everything as it is after a version has become the current one."""
        photo, labels = session.current
        folder = Path(tempfile.mkdtemp(dir=os.environ[FOLDER]))
        image_file, map_file = folder / f"{session.name}-edited.png", folder / f"{session.name}-map.png"
        image, segmentation = as_image(photo.colors, photo), self._map_image(labels)
        image.save(image_file)
        segmentation.save(map_file)
        return {
            self.session: session, self.chosen: -1, self.photo: image,
            self.map: gr.ImageEditor(self.palette[np.minimum(labels, KNOWN)], brush=self._brush(min(labels.shape))),
            self.preview: None, self.gallery: gr.Gallery([], selected_index=None),
            self.said: _said(said), self.legend: self._legend(labels), self.image_file: str(image_file),
            self.map_file: str(map_file),
        }  # fmt: skip

    def _brush(self, side: int) -> Any:
        """A brush for a map whose shorter side is so long."""
        names = [_hexadecimal(color) for color in (*self.colors, AGAIN)]
        return gr.Brush(max(1, side // STROKES), names, names[0], "fixed")

    def _map_image(self, labels: Pixels) -> Image.Image:
        """A map as a file of labels, colored where they have 8 bits."""
        if labels.max() > KNOWN:
            return Image.fromarray(labels.astype(np.uint16))
        image = Image.fromarray(labels.astype(np.uint8))
        image.putpalette(self.palette.tobytes())
        return image

    def _legend(self, labels: Pixels) -> str:
        """Which color is which class, and how much of the map it has."""
        shares = np.bincount(np.minimum(labels, KNOWN).ravel(), minlength=len(self.colors)) / labels.size
        words = [f"class {label}" for label in range(len(self.colors))]
        words = [f"{word}, {share:.0%}" if share else word for word, share in zip(words, shares, strict=False)]
        rows = zip((*self.colors, AGAIN), (*words, "anew, the class as it is"), strict=True)
        colored = '<span class="swatch"><i style="background: {}"></i>{}</span>'
        return "".join(colored.format(_hexadecimal(color), word) for color, word in rows)


def serve(
    job: EditJob, known: int, check: Check, start: tuple[Path, Path] | None, seed: int, place: tuple[str, int]
) -> None:
    """Serve the page until the process is interrupted or asked to end.

    Nothing but what belongs to the page is served: its own files, and those that its visitors gave or made, from the
    folder of ``gradio_settings.own_folder``, inside of which this must be called. Nothing is sent anywhere else.

    Args:
        place: host and port where the page listens; the port 0 takes any that is free.

    Raises:
        ValueError: nothing can listen there.
    """
    host, port = place
    page = Page(job, known, check, start, seed)
    try:
        listening = socket.create_server(place)
    except OSError as error:
        raise ValueError(
            f"the page cannot listen on {host}:{port} ({error}); name another place, such as --serve {LOOPBACK[0]}:0"
        ) from error
    app = fastapi.FastAPI(openapi_url=None)
    # A name that another site has for this machine is none of ours.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK] if host in LOOPBACK else ["*"])
    gr.mount_gradio_app(
        app, page.blocks, path="/", footer_links=[], run_history=False, show_error=False, ssr_mode=False,
        max_file_size=LARGEST, enable_monitoring=False, pwa=False, mcp_server=False, css=CSS,
    )  # fmt: skip
    # It would say with a traceback that a visitor left.
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
    command.say(f"http://{host}:{listening.getsockname()[1]}")
    uvicorn.Server(config).run(sockets=[listening])


def _hexadecimal(color: Any) -> str:
    return "#{:02x}{:02x}{:02x}".format(*map(int, color))


def _said(text: str, wrong: bool = False) -> str:
    return f'<p role="{"alert" if wrong else "status"}">{html.escape(text)}</p>'
