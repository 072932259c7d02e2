"""Where M_0 comes from: a model made on the spot (and, with their issue, models of the hub)."""
