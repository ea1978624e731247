"""Training: gradients, update steps, epochs, `fit`, metrics, data, and checkpoints."""
