"""What stands in for the handles of actors."""

from typing import Any

from ray.exceptions import GetTimeoutError

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


class Silent:
    """The handle of an actor that answers nothing, as where its node has gone."""

    def __getattr__(self, name: str) -> Any:
        def remote(*arguments: Any) -> Any:
            raise GetTimeoutError(f"{name} was not answered")

        return type("Method", (), {"remote": staticmethod(remote)})
