"""Files as found: what they define, what in them can be checked, and at which arguments."""
