"""Models of transformers are made one at a time.

While it makes one, transformers turns off for the whole process that weights are tied and that values are set; another
model that is made meanwhile, by a thread that a stopped run has left behind, would have a vocabulary of its own, with
values that nobody learned.
"""

from __future__ import annotations

import threading

ONE_AT_A_TIME = threading.RLock()
"""held by whoever makes a model"""
