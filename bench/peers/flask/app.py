"""Flask as the serving chapter writes it: one prediction a request."""

from functools import lru_cache

import served
from flask import Flask, jsonify, request

app = Flask(__name__)


@lru_cache(maxsize=1)
def load_model():
    """Load model once and cache it"""
    return served.load()


load_model()


@app.route("/predict", methods=["POST"])
def predict():
    try:
        data = request.get_json()
        (output,) = load_model()([data["features"]])
        return jsonify({"output": output})
    except Exception as e:
        return jsonify({"error": str(e)}), 500


@app.route("/health", methods=["GET"])
def health():
    return jsonify({"status": "healthy"})
