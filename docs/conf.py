"""The site: ``make docs``.

With ``DOCS_STEPS=20`` in the environment every fit of the pages takes at most 20 steps (``make docs-quick``).
"""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import ppl_flows

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "extensions"))

project = "ppl_flows"
author = copyright = "the ppl_flows developers"
version = release = ppl_flows.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "api_pages",
    "two_languages",
    "notebooks",
]
exclude_patterns = ["_build", "extensions", "static"]
suppress_warnings = ["mystnb.unknown_mime_type", "ref.python"]  # the latter: a name that both languages have

# Markdown
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# What runs. Pages with a jupytext header are notebooks of MyST-NB; blocks ``pyro``, ``numpyro`` and ``both`` are tabs.
most_steps = os.environ.get("DOCS_STEPS")
made = DOCS / "_build" / ("quick" if most_steps else "full")
nb_execution_mode = "cache"
nb_execution_cache_path = str(made / "jupyter_cache")
nb_execution_timeout = 600
nb_execution_in_temp = True  # pages write files
nb_output_stderr = "remove"
nb_merge_streams = True
nb_number_source_lines = False
two_languages_cache = str(made / "runs")
os.environ |= {"TQDM_DISABLE": "1", "JAX_PLATFORMS": "cpu"}
profile = made / "ipython"
os.environ["IPYTHONDIR"] = str(profile)
startup = profile / "profile_default" / "startup"
startup.mkdir(parents=True, exist_ok=True)
shutil.copy(DOCS / "extensions" / "kernel_startup.py", startup)

# Formulas, by a MathJax of the site's own: pages work without a network.
mathjax_path = "mathjax/tex-chtml-full.js"
mathjax = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"

# The reference
autodoc_inherit_docstrings = False  # the contract is documented once, in Bijection
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 90
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = [("Reference", "notes_style"), ("Example", "notes_style")]
nitpicky = True
nitpick_ignore_regex = [("py:class|py:exc", ".*")]  # annotations name types that other projects document

# The look
html_theme = "furo"
html_title = "ppl_flows"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_favicon = "static/favicon.svg"
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b6e99", "color-brand-content": "#0b6e99"},
    "dark_css_variables": {"color-brand-primary": "#6cc4e8", "color-brand-content": "#6cc4e8"},
}
pygments_style = "friendly"
pygments_dark_style = "monokai"
copybutton_selector = "div:not(.output) > div.highlight > pre"
copybutton_exclude = ".linenos, .gp, .go"


def copy_mathjax(app, error):
    """The one program that the pages name, and its fonts; the package has twenty."""
    if error is None and app.builder.format == "html":
        target, fonts = Path(app.outdir, "_static", "mathjax"), Path("output", "chtml", "fonts", "woff-v2")
        shutil.copytree(mathjax / fonts, target / fonts, dirs_exist_ok=True)
        shutil.copy(mathjax / "tex-chtml-full.js", target)


def setup(app):
    app.connect("build-finished", copy_mathjax)
