"""What a person sees while a run goes on: a live bar on a terminal, a line an epoch elsewhere."""

import sys
from typing import Any

from tqdm import tqdm


class Progress:
    """Progress of a training run, in images: loss, validation miou, images/s, time left."""

    def __init__(self, epochs: int, images_per_epoch: int, done_images: int, show: bool = True):
        """Start at `done_images` of epochs * images_per_epoch; `show=False` says nothing at all."""
        self._epochs, self._show = epochs, show
        self._values: dict[str, str] = {}
        self._bar = tqdm(
            total=epochs * images_per_epoch,
            initial=done_images,
            unit="img",
            dynamic_ncols=True,
            smoothing=0.1,
            file=sys.stderr,
            # A log file would fill with half-drawn bars.
            disable=not (show and sys.stderr.isatty()),
        )

    def note(self, text: str) -> None:
        """Print a line without tearing the bar."""
        if self._show:
            tqdm.write(text, file=sys.stderr)

    def stepped(self, images: int, epoch: int, loss: float | None) -> None:
        """Some training images later, in epoch `epoch` (from 1)."""
        self._bar.set_description(f"epoch {epoch}/{self._epochs}", refresh=False)
        if loss is not None:
            self._values["loss"] = f"{loss:.3f}"
            self._bar.set_postfix(self._values, refresh=False)
        self._bar.update(images)

    def validated(self, row: dict[str, Any], best: bool) -> None:
        """An epoch is over; `row` is its line of metrics.jsonl."""
        text, loss = (_number(row["val"][name]) for name in ("miou", "loss"))
        self._values["miou"] = text + ("*" if best else "")
        self._bar.set_postfix(self._values)
        if self._show and self._bar.disable:
            print(
                f"epoch {row['epoch']}/{self._epochs}  loss {row['train']['loss']:.4f}  "
                f"val loss {loss}  val miou {text}{' (best)' if best else ''}  "
                f"{row['images_per_second']:.1f} img/s",
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._bar.close()


def _number(value: float | None) -> str:
    """Four digits; a dash where no pixel was labelled, so that there is no value."""
    return "-" if value is None else f"{value:.4f}"
