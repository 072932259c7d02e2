"""Judging answers: numbers as they are written, mathematics, and workers that can be killed."""
