"""Configuration of Sphinx; `python -m experiments.site` runs it."""

import logging
from pathlib import Path

import jaxnn

logging.getLogger("traitlets").setLevel(logging.WARNING)  # it tells of each notebook

project = "jaxnn"
author = "jaxnn contributors"
project_copyright = "jaxnn contributors, Apache License 2.0"
release = jaxnn.__version__
extensions = ["myst_nb", "sphinx_gallery.gen_gallery", "sphinx-mathjax-offline"]
exclude_patterns = ["examples", "gallery/*.ipynb", "gallery/*.py", "gallery/*.md5"]

nitpicky = True  # a reference to a name that does not exist is a warning
nitpick_ignore_regex = [("py:exc", ".*")]
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
nb_output_stderr = "remove"  # progress bars

sphinx_gallery_conf = {
    "examples_dirs": str(Path(__file__).parent / "examples"),
    "gallery_dirs": "gallery",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "within_subsection_order": "FileNameSortKey",
    "min_reported_time": 1e9,
    "parallel": 2,
    "show_memory": False,
    "show_signature": False,
}

html_theme = "furo"
html_title = "jaxnn"
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["site.css"]
html_theme_options = {"top_of_page_buttons": []}
add_module_names = False
python_display_short_literal_types = True


def setup(app) -> None:
    """Declare that pages may be read in parallel: the extension only adds files at the end."""
    app.extensions["sphinx-mathjax-offline"].parallel_read_safe = True
