import threading

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """Says a text word by word, as models of language do; in threads of its own."""

    def execute(self, requests):
        for request in requests:
            said = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy().flatten()[0].decode()
            most = pb_utils.get_input_tensor_by_name(request, "MOST")
            words = said.split()[: None if most is None else int(most.as_numpy().flatten()[0])]
            threading.Thread(target=self.say, args=[request.get_response_sender(), words]).start()

    def say(self, sender, words):
        for word in words:
            tensor = pb_utils.Tensor("WORD", np.array([[word]], object))
            sender.send(pb_utils.InferenceResponse([tensor]))
        sender.send(flags=FINAL)
