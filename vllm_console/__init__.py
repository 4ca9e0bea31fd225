"""Run, watch and tune a fleet of vLLM models from one terminal."""

__version__ = "0.1.0"
