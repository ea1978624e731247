"""The laws that a backward must obey, and `check`, which tries them."""
