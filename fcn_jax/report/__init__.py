"""Results for the eye: curves, galleries, tables, and self-contained pages.

Draws from plain dicts and arrays; knows no network and no training.
"""

from fcn_jax.report.figures import write_curves as write_curves
from fcn_jax.report.gallery import write_gallery as write_gallery
from fcn_jax.report.masks import Panel as Panel
from fcn_jax.report.masks import choose_examples as choose_examples
from fcn_jax.report.masks import colourise as colourise
from fcn_jax.report.masks import error_map as error_map
from fcn_jax.report.masks import overlay as overlay
from fcn_jax.report.masks import panel_title as panel_title
from fcn_jax.report.masks import save_index_png as save_index_png
from fcn_jax.report.pages import Run as Run
from fcn_jax.report.pages import RunData as RunData
from fcn_jax.report.pages import write_comparison as write_comparison
from fcn_jax.report.pages import write_report as write_report
from fcn_jax.report.tables import result_table as result_table
from fcn_jax.report.tables import table_json as table_json
from fcn_jax.report.tables import table_markdown as table_markdown
