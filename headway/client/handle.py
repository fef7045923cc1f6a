"""A submitted prediction, or batch, held: what the handles of both clients have in common."""

from headway.client.records import Batch, Counts, Prediction


class Handle:
    """`prediction` is what was last seen of it."""

    def __init__(self, prediction: Prediction) -> None:
        self.prediction = prediction

    @property
    def id(self) -> str:
        return self.prediction.id

    @property
    def status(self) -> str:
        """As last seen; `refresh` asks."""
        return self.prediction.status

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.status}>"


class BatchHandle:
    """`batch` is what was last seen of it."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    @property
    def id(self) -> str:
        return self.batch.id

    @property
    def status(self) -> str:
        """As last seen; `refresh` asks."""
        return self.batch.status

    @property
    def counts(self) -> Counts:
        """As last seen."""
        return self.batch.request_counts

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.status}>"
