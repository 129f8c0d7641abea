"""Training and segmenting from Python: results that show themselves in a notebook."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fcn_jax.analysis import run_report
from fcn_jax.analysis.live_report import LiveReport
from fcn_jax.config import Config, Runtime
from fcn_jax.data import prepare
from fcn_jax.inference import predict
from fcn_jax.report import gallery, masks, pages, tables
from fcn_jax.runtime import distributed, files
from fcn_jax.runtime.text import number
from fcn_jax.training import loop, run_dir
from fcn_jax.training.callbacks import Callback

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class RunResult(dict[str, Any]):
    """What result.json holds, as a dict; in a notebook it shows scores and curves.

    Attributes:
      folder: of the run.
    """

    def __init__(self, values: Mapping[str, Any], folder: Path) -> None:
        """Hold the values of a run's result.json."""
        super().__init__(values)
        self.folder = folder

    def curves(self) -> "Figure":
        """Loss, validation mIoU and learning rate over the epochs."""
        from fcn_jax.report import figures

        return figures.curves(run_dir.read_metrics(self.folder), self)

    def confusion(self) -> "Figure":
        """The confusion matrix of the validation."""
        from fcn_jax.report import figures

        data = files.read_json(self.folder / "eval-val.json")
        return figures.confusion(np.asarray(data["confusion"]), list(self["val"]["iou"]))

    def gallery(self) -> Image.Image:
        """The best, median and worst images beside truth, prediction and errors."""
        with Image.open(self.folder / "gallery.png") as image:
            return image.convert("RGB")

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{name}</th>{''.join(f'<td>{number(value)}</td>' for value in values)}</tr>"
            for name, *values in tables.score_rows(self)
        )
        head = (
            f"<th></th><th>model</th><th>{escape(tables.trivial_name(self))}</th><th>perfect</th>"
        )
        curves = b64encode((self.folder / "curves.png").read_bytes()).decode()
        title = f"{self.get('arch')} on {self.get('dataset')}, page: {self.folder}/report.html"
        return (
            f"<p>{escape(title)}</p><table><tr>{head}</tr>{rows}</table>"
            f'<img src="data:image/png;base64,{curves}" style="max-width:100%">'
        )


@dataclass(frozen=True)
class Segmentation:
    """One image and its mask; in a notebook it shows both, with a legend."""

    image: np.ndarray
    """uint8 [H, W, 3]."""
    mask: np.ndarray
    """uint8 [H, W], class ids."""
    class_names: tuple[str, ...]
    palette: np.ndarray
    """uint8 [K, 3]."""

    def __repr__(self) -> str:
        """Short: not the arrays."""
        height, width = self.mask.shape
        found = ", ".join(f"{name} {100 * part:.1f} %" for name, part in self.areas().items())
        return f"Segmentation({height}x{width}: {found})"

    def areas(self) -> dict[str, float]:
        """Fraction of the image for each class that occurs, largest first."""
        counts = np.bincount(self.mask.ravel(), minlength=len(self.class_names))
        order = np.argsort(-counts, kind="stable")
        return {self.class_names[i]: float(counts[i] / counts.sum()) for i in order if counts[i]}

    def overlay(self) -> np.ndarray:
        """The image tinted by the mask: uint8 [H, W, 3]."""
        return masks.overlay(self.image, self.mask, self.palette)

    def _repr_png_(self) -> bytes:
        both = np.concatenate([self.image, self.overlay()], axis=1)
        strip = gallery.with_legend(both, [self.mask], self.class_names, self.palette)
        return masks.png(strip)


def train(
    config: Config,
    dataset: prepare.Dataset,
    folder: Path | str,
    runtime: Runtime | None = None,
    callbacks: Sequence[Callback] = (),
    command: str = "",
    base: Config | None = None,
) -> RunResult:
    """Train, or resume, the run of `folder`, with the pages that the command writes.

    report.html, curves.png and gallery.png are refreshed during the run, see
    `live_report.LiveReport`; everything else is as in `loop.train`.

    Args:
      config: the run.
      dataset: what `config.data.dataset` names, loaded.
      folder: made if new; one that holds the same run is resumed.
      runtime: where and how.
      callbacks: called at the start, after steps and epochs, and at the end.
      command: how to repeat the run, shown on its page.
      base: settings from which others are marked on the page; None: the defaults.

    Returns:
      What result.json holds, as a dict that shows itself in a notebook.

    Raises:
      InputError: for input that cannot be trained on, or a folder that holds another run.
      Interrupted: after SIGINT or SIGTERM, once the state is saved.
    """
    folder = Path(folder)
    live = LiveReport(dataset, command, base)
    result = loop.train(config, dataset, folder, runtime, [live, *callbacks])
    if distributed.is_primary() and not _is_rendered(folder):
        run_report.render(folder, dataset, command, base)
    return RunResult(result, folder)


def _is_rendered(folder: Path) -> bool:
    """Whether the pages of a finished run were written after its result.

    The last page that was written during the run may be newer than the result, too.
    """
    written = [folder / name for name in run_dir.PAGES]
    result = (folder / run_dir.RESULT).stat().st_mtime_ns
    newer = all(file.exists() and file.stat().st_mtime_ns > result for file in written)
    return newer and not pages.is_live(written[0].read_text(encoding="utf-8"))


def segment(
    checkpoint: predict.Checkpoint,
    image: np.ndarray,
    scale: str = "fit",
    tta: predict.TTA | None = None,
) -> Segmentation:
    """Segment an image, to be looked at; arguments are those of `predict`.

    >>> import fcn_jax, numpy
    >>> made = fcn_jax.segment(network, numpy.zeros((40, 60, 3), numpy.uint8))  # doctest: +SKIP
    >>> made.areas()  # doctest: +SKIP
    {'background': 1.0}
    """
    mask = predict.predict(checkpoint, image, scale, tta)
    return Segmentation(image, mask, checkpoint.class_names, checkpoint.palette)
