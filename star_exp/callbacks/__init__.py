"""Lightning callbacks: the phases of an iteration, the resets, what is measured and shown."""
