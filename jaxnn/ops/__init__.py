"""One file for each family of ops: definition, fwd and bwd, with the derivation beside them."""
