"""The version, and where the programs are."""

import jaxnn

print(
    f"jaxnn {jaxnn.__version__}\n\n"
    "python -m jaxnn.gradcheck FILE    check every hand-written backward in a file\n\n"
    "The experiments are not installed: they come with the source, in the folder experiments/, "
    "and run\nfrom there. `python -m experiments` lists them."
)
