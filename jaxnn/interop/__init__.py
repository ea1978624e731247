"""Parameters and gradients in the layouts of other libraries."""
