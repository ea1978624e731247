"""Tools that several ops share."""
