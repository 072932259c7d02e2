"""`python -m star_exp.metrics > docs/metrics.md`."""

from star_exp.metrics.registry import markdown

if __name__ == "__main__":
    print(markdown(), end="")
