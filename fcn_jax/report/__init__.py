"""Results for the eye: pages, figures, galleries and tables.

Renders plain dicts and arrays; knows no network and no training.

Names are loaded when they are first used, so that a command imports only what it renders with.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcn_jax.report.figures import confusion as confusion
    from fcn_jax.report.figures import curves as curves
    from fcn_jax.report.figures import images_figure as images_figure
    from fcn_jax.report.figures import write_curves as write_curves
    from fcn_jax.report.gallery import Prediction as Prediction
    from fcn_jax.report.gallery import thumbnail as thumbnail
    from fcn_jax.report.gallery import with_legend as with_legend
    from fcn_jax.report.gallery import write_gallery as write_gallery
    from fcn_jax.report.masks import Panel as Panel
    from fcn_jax.report.masks import choose_examples as choose_examples
    from fcn_jax.report.masks import colourise as colourise
    from fcn_jax.report.masks import error_map as error_map
    from fcn_jax.report.masks import overlay as overlay
    from fcn_jax.report.masks import panel_title as panel_title
    from fcn_jax.report.masks import save_index_png as save_index_png
    from fcn_jax.report.pages import Live as Live
    from fcn_jax.report.pages import Run as Run
    from fcn_jax.report.pages import RunData as RunData
    from fcn_jax.report.pages import write_comparison as write_comparison
    from fcn_jax.report.pages import write_predictions as write_predictions
    from fcn_jax.report.pages import write_report as write_report
    from fcn_jax.report.tables import comparison_table as comparison_table
    from fcn_jax.report.tables import result_table as result_table
    from fcn_jax.report.tables import table_json as table_json
    from fcn_jax.report.tables import table_markdown as table_markdown

_HOMES = ("masks", "tables", "pages", "gallery", "figures")
"""The modules that define the names above, the lightest first."""


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if importlib.util.find_spec(f"{__name__}.{name}") is not None:
        return importlib.import_module(f"{__name__}.{name}")
    for home in _HOMES:
        module = importlib.import_module(f"{__name__}.{home}")
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
