"""star-exp: self-taught reasoners behind one loop, one store and one set of metrics."""

__version__ = "0.5.0"
