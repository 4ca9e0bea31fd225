"""What the numbers mean: efficiency, the binding limit, attainment of targets, advice.

Pure functions of samples and windows: no I/O, no clock. Every derived value that the screen shows
is defined once, with its formula, in `vllm_console.insight.definitions`.
"""
