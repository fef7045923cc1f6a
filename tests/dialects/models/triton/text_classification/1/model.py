import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """A softmax over how many tokens of a text leave which remainder by ten."""

    def execute(self, requests):
        responses = []
        for request in requests:
            tokens = pb_utils.get_input_tensor_by_name(request, "INPUT__0").as_numpy()
            counts = np.stack([np.bincount(row % 10, minlength=10) for row in tokens]).astype(np.float32) / 10
            grown = np.exp(counts - counts.max(axis=1, keepdims=True))
            scores = grown / grown.sum(axis=1, keepdims=True)
            responses.append(pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("OUTPUT__0", scores)]))
        return responses
