"""Engine environments: where vLLM is installed, which options it takes, the tiny models."""
