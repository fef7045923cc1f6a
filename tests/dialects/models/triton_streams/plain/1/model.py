import threading

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


def text(said):
    return pb_utils.InferenceResponse([pb_utils.Tensor("TEXT", np.array([said], object))])


class TritonPythonModel:
    """Answers once, by a response sender or without one, as HOW says."""

    said = "nothing"

    def execute(self, requests):
        responses = []
        for request in requests:
            how = pb_utils.get_input_tensor_by_name(request, "HOW").as_numpy()[0].decode()
            if how == "returns":
                responses.append(text("returned"))
            elif how == "said":
                responses.append(text(self.said))
            else:
                responses.append(None)
                threading.Thread(target=self.answer, args=[request.get_response_sender(), how]).start()
        return responses

    def answer(self, sender, how):
        """Sends once in the end, and before that what it should not, or after it."""
        try:
            if how == "final first":
                sender.send(flags=FINAL)
            elif how == "twice":
                sender.send(text("sent"))
                sender.send(text("again"))
            elif how == "final after":
                sender.send(text("sent"))
                sender.send(flags=FINAL)
            else:
                sender.send(text("sent"), flags=FINAL)
                sender.send(text("again"))
        except Exception as error:
            self.said = f"{type(error).__name__}: {error}"
            if how == "twice":
                sender.send(flags=FINAL)
            elif how == "final first":
                sender.send(text("sent"), flags=FINAL)
