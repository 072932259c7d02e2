"""Lightning modules: the loss of a training step and its optimizer."""
