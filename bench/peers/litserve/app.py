"""LitServe, as its documentation writes it: one device, batches, uvloop, its fast queue."""

import litserve
import served


class Classifier(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.model = served.load()

    def decode_request(self, request: dict) -> list[float]:
        return request["features"]

    def batch(self, inputs: list) -> list:
        return inputs

    def predict(self, batch: list) -> list:
        return self.model(batch)

    def unbatch(self, output: list) -> list:
        return output

    def encode_response(self, output: list) -> dict:
        return {"output": output}


if __name__ == "__main__":
    api = Classifier(max_batch_size=served.MAX_BATCH, batch_timeout=served.WAIT_S)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=120, fast_queue=True)
    server.run(host="127.0.0.1", port=served.PORT, generate_client_file=False, log_level="warning", access_log=False)
