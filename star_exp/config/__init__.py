"""Configs: composed by Hydra, checked against the constructors they name, hashed, compared."""
