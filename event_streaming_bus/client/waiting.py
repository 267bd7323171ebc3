"""How asynchronous code waits."""

from asyncio import Lock, Semaphore, sleep

__all__ = ["Lock", "Semaphore", "sleep"]
