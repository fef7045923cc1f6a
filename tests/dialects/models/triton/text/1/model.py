import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Texts in capitals, with the ending that the configuration names."""

    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.ending = config["parameters"]["ending"]["string_value"].encode()
        length = pb_utils.get_output_config_by_name(config, "LENGTH")
        self.length_type = pb_utils.triton_string_to_numpy(length["data_type"])

    def execute(self, requests):
        responses = []
        for request in requests:
            texts = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()
            upper = np.array([text.upper() + self.ending for text in texts.flatten()], dtype=np.object_)
            lengths = np.array([len(text) for text in texts.flatten()], dtype=self.length_type)
            responses.append(
                pb_utils.InferenceResponse(
                    output_tensors=[
                        pb_utils.Tensor("UPPER", upper.reshape(texts.shape)),
                        pb_utils.Tensor("LENGTH", lengths.reshape(texts.shape)),
                    ]
                )
            )
        return responses
