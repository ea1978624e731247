"""The documentation, as a site: derivations typeset beside the code that runs."""
