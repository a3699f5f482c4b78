"""Settings of Sphinx, for `make docs`.

The source folder is the repository's root: so README, docs/ and the recipes' READMEs are one site, and a link from one
to another works here, in an editor and on a code host alike.
"""

import os
import shutil
from collections import namedtuple
from pathlib import Path

from ser_ts_lobes import __version__

project = "ser_ts_lobes"
release = __version__
html_title = f"ser_ts_lobes {release}"

root_doc = "README"
include_patterns = ["*.md", "docs/**", "*/README.md", "recipes/**/README.md", "ser_ts_lobes/mini_hubert/README.md"]
exclude_patterns = [".*", "build", "demo", "results", "recipes/**/results", "docs/api/modules.rst"]

extensions = ["myst_parser", "sphinx.ext.apidoc", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_heading_anchors = 3  # levels of headings that links may name, as on code hosts

# ---- The reference: a page a module, written from the docstrings.
apidoc_modules = [
    {
        "path": "../ser_ts_lobes",
        "destination": "docs/api",
        "separate_modules": True,
        "max_depth": 1,
        "module_first": True,
    }
]
# Names are documented where they are defined, not where a room or an old address gives them, too.
apidoc_automodule_options = ["ignore-module-all", "members", "show-inheritance"]
os.environ["SPHINX_APIDOC_OPTIONS"] = ",".join(apidoc_automodule_options)  # Sphinx 9.0 reads it for packages
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_use_ivar = True  # an attribute stands in its class's text, not a second time by itself
default_role = "py:obj"  # `name` is a link where there is such a name
suppress_warnings = ["ref.python"]  # several classes may have an attribute `name`

# ---- The pages, which fetch nothing from elsewhere.
html_theme = "furo"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_show_copyright = html_show_sourcelink = html_copy_source = False

NAMED_FIELD = type(namedtuple("Any", "field").field)

# What stands beside each page. Not in the README itself, where code hosts would show it as it is written.
CONTENTS = """
```{toctree}
:hidden:
:caption: Use

docs/demo
docs/corpora
docs/tables
docs/report
docs/beyond-the-paper
docs/training
docs/students
docs/speed
docs/faq
```

```{toctree}
:hidden:
:glob:
:caption: Recipes

recipes/**/README
```

```{toctree}
:hidden:
:caption: Inside

docs/method
docs/design
hparams/README
Reference <docs/api/ser_ts_lobes>
ser_ts_lobes/mini_hubert/README
docs/mutants
docs/endurance
CONTRIBUTING
CHANGELOG
```
"""


def setup(app):
    """Make the README the front page, and leave out what says nothing."""
    app.connect("autodoc-skip-member", skip_numbered_fields)
    app.connect("source-read", add_contents)
    app.connect("build-finished", copy_front_page)


def skip_numbered_fields(app, what, name, member, skip, options):
    """Leave out the fields of named tuples, of which Python says "Alias for field number 0"; the class tells them."""
    return True if isinstance(member, NAMED_FIELD) else None


def add_contents(app, page, source):
    """Add the table of contents to the front page; `source` is a list of one string."""
    if page == root_doc:
        source[0] += CONTENTS


def copy_front_page(app, error):
    """Copy README.html to index.html, from which each link leads to the same place."""
    if error is None and app.builder.format == "html":
        shutil.copyfile(Path(app.outdir, "README.html"), Path(app.outdir, "index.html"))
