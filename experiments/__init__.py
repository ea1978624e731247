"""Programs that train networks or measure them; each writes a result and pictures."""
