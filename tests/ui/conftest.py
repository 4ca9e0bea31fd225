"""The screen's tests draw in colour whatever the environment says."""

from __future__ import annotations

import os

# Textual reads it when it is imported.
os.environ.pop("NO_COLOR", None)
