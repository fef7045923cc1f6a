"""mosec, as its documentation writes it: one worker that takes batches, JSON in and out."""

import served
from mosec import Server, Worker, get_logger

logger = get_logger()


class Classifier(Worker):
    def __init__(self) -> None:
        self.predict = served.load()

    def forward(self, data: list[dict]) -> list[dict]:
        outputs = self.predict([item["features"] for item in data])
        return [{"output": output} for output in outputs]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Classifier, num=1, max_batch_size=served.MAX_BATCH, max_wait_time=int(served.WAIT_S * 1000))
    server.run()
