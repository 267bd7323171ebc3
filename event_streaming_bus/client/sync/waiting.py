"""How blocking code waits."""

from threading import Lock, Semaphore
from time import sleep

__all__ = ["Lock", "Semaphore", "sleep"]
