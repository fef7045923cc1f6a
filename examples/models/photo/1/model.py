"""A support vector machine on scikit-learn's scanned digits, asked with photos: decoded, made grey and shrunk to 8×8.

It learns when it is loaded, in a fraction of a second, from the images that `examples/train_digits.py` trains on too;
the others are for whoever wants to know how good it is.
"""

import io

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

from headway import InvalidInput, Model

#: Pixels of a photo: what a small file claims to be may be far larger than memory.
MOST_PIXELS = 50_000_000


class Photo(Model):
    """The bytes of a JPEG or PNG, dark ink on light paper or the other way round, to the digit on it."""

    def load(self, context):
        digits = load_digits()
        images, _, labels, _ = train_test_split(
            digits.images, digits.target, test_size=0.25, random_state=0, stratify=digits.target
        )
        self.classifier = SVC(gamma=0.001).fit(images.reshape(len(images), 64), labels)

    def predict(self, inputs):
        grey = [ink_of(value) for value in inputs]
        # What is no photo fails alone: its place in the answer is the error.
        good = [image for image in grey if isinstance(image, np.ndarray)]
        found = iter(self.classifier.predict(np.stack(good)) if good else ())
        return [{"digit": int(next(found))} if isinstance(image, np.ndarray) else image for image in grey]


def ink_of(value):
    """64 numbers, 0 for paper to 16 for ink, or the InvalidInput that says why there are none."""
    if not isinstance(value, bytes):
        return InvalidInput("send the bytes of a JPEG or PNG, with Content-Type: image/jpeg or image/png")
    try:
        with Image.open(io.BytesIO(value), formats=("JPEG", "PNG")) as image:
            if image.width * image.height > MOST_PIXELS:
                return InvalidInput(f"the photo has {image.width}×{image.height} pixels")
            small = image.convert("L").resize((8, 8), Image.Resampling.BOX)
    except (OSError, SyntaxError, ValueError) as error:
        return InvalidInput(f"this is no JPEG or PNG: {error}")
    grey = np.asarray(small, dtype=np.float64)
    paper = np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]]))
    ink = np.abs(grey - paper)
    return (ink * 16 / max(ink.max(), 1.0)).ravel()
