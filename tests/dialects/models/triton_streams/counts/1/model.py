import json
import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


def out(number):
    return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([number], np.int32))])


def text(said):
    return pb_utils.InferenceResponse([pb_utils.Tensor("TEXT", np.array([str(said)], object))])


class TritonPythonModel:
    """Answers a request once for each number in IN, or otherwise, as HOW says."""

    def initialize(self, args):
        self.decoupled = pb_utils.using_decoupled_model_transaction_policy(json.loads(args["model_config"]))

    def execute(self, requests):
        for request in requests:
            numbers = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy().tolist()
            how = pb_utils.get_input_tensor_by_name(request, "HOW").as_numpy()[0].decode()
            if how == "returns":
                request.get_response_sender().send(flags=FINAL)
                return [out(1)]
            if how == "raises":
                raise ValueError("it will not")
            sender = request.get_response_sender()
            if how == "raises after one":
                sender.send(out(numbers[0]))
                raise ValueError("it will not")
            if how == "thread":
                threading.Thread(target=self.slowly, args=[sender, numbers]).start()
                continue
            getattr(self, how.replace(" ", "_"))(sender, numbers)
        return None

    def each(self, sender, numbers):
        for number in numbers:
            sender.send(out(number))
        sender.send(flags=FINAL)

    def slowly(self, sender, numbers):
        for number in numbers:
            time.sleep(0.05)
            sender.send(out(number))
        sender.send(flags=FINAL)

    def last(self, sender, numbers):
        for number in numbers[:-1]:
            sender.send(out(number))
        sender.send(out(numbers[-1]), flags=FINAL)

    def both(self, sender, numbers):
        tensors = [
            pb_utils.Tensor("OUT", np.array(numbers, np.int32)),
            pb_utils.Tensor("TEXT", np.array(["both"], object)),
        ]
        sender.send(pb_utils.InferenceResponse(tensors), flags=FINAL)

    def empty(self, sender, numbers):
        sender.send(pb_utils.InferenceResponse([]))
        sender.send(flags=FINAL)

    def fails(self, sender, numbers):
        error = pb_utils.TritonError("no more of this", pb_utils.TritonError.UNAVAILABLE)
        for number in numbers:
            sender.send(out(number))
        sender.send(pb_utils.InferenceResponse([], error=error), flags=FINAL)

    def fails_between(self, sender, numbers):
        sender.send(out(numbers[0]))
        sender.send(pb_utils.InferenceResponse([], error=pb_utils.TritonError("not this one")))
        sender.send(out(numbers[-1]))
        sender.send(flags=FINAL)

    def undeclared(self, sender, numbers):
        sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OTHER", np.array([1], np.int32))]), flags=FINAL)

    def mistakes(self, sender, numbers):
        """What is raised for what a model should not do, told in responses."""
        for wrong in (
            lambda: sender.send(out(1), flags=7),
            lambda: sender.send(),
            lambda: sender.send("text"),
            lambda: sender.is_cancelled(),
        ):
            try:
                sender.send(text(f"answered {wrong()}"))
            except Exception as error:
                sender.send(text(f"{type(error).__name__}: {str(error)[:80]}"))
        sender.send(flags=FINAL)

    def after_the_end(self, sender, numbers):
        sender.send(out(numbers[0]))
        sender.send(flags=FINAL)
        try:
            sender.send(out(numbers[0]))
        except Exception as error:
            self.said = f"{type(error).__name__}: {error}"

    def said_then(self, sender, numbers):
        sender.send(text(self.said), flags=FINAL)

    def policy(self, sender, numbers):
        sender.send(text(self.decoupled), flags=FINAL)
