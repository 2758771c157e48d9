"""What stands in for the handles of actors."""

from typing import Any

from pipelines.progress import Progress


class Direct:
    """What an actor's handle looks like, calling at once."""

    def __init__(self, progress: Progress) -> None:
        self.calls = 0
        self.progress = progress

    def __getattr__(self, name: str) -> Any:
        def remote(*arguments: Any) -> Any:
            self.calls += 1
            return getattr(self.progress, name)(*arguments)

        return type("Method", (), {"remote": staticmethod(remote)})
