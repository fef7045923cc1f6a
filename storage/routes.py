"""What operators have said of models: aliases, traffic, pauses."""

import msgspec

from headway.registry import Route, Traffic
from storage.engine import Database

_traffic = msgspec.json.Decoder(Traffic)


class Routes:
    """Every verb raises StorageUnavailable when SQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> dict[str, Route]:
        """By model; a model of which nothing was said is not in it."""

        def read() -> dict[str, Route]:
            with self._database.read() as connection:
                rows = self._database.run(connection, "all_routes").all()
                aliases: dict[str, dict[str, str | None]] = {}
                for model, alias, version in self._database.run(connection, "all_aliases"):
                    aliases.setdefault(model, {})[alias] = version
            routes = {
                model: Route(
                    traffic=Traffic() if traffic is None else _traffic.decode(traffic),
                    paused=bool(paused),
                    aliases=aliases.pop(model, {}),
                )
                for model, traffic, paused in rows
            }
            return routes | {model: Route(aliases=said) for model, said in aliases.items()}

        return self._database.retrying(read)

    def point(self, model: str, alias: str, version: str | None) -> None:
        """An alias to a version; None takes it away, whatever model.toml says."""
        self._write("point_alias", model=model, alias=alias, version=version)

    def forget(self, model: str, alias: str) -> None:
        """Nothing was ever said of this alias: it is as model.toml has it."""
        self._write("forget_alias", model=model, alias=alias)

    def split(self, model: str, traffic: Traffic) -> None:
        """Traffic without versions and shadows goes to the latest version."""
        text = None if traffic == Traffic() else msgspec.json.encode(traffic).decode()
        self._write("split_traffic", model=model, traffic=text)

    def pause(self, model: str, paused: bool) -> None:
        """While paused, what is queued stays queued."""
        self._write("pause", model=model, paused=int(paused))

    def _write(self, statement: str, **parameters: str | int | None) -> None:
        def once() -> None:
            with self._database.write() as connection:
                self._database.run(connection, statement, **parameters)

        self._database.retrying(once)
