"""What Schemathesis has to be told of our media types: loaded by it, in its own process."""

import schemathesis

schemathesis.serializer.alias(["application/x-ndjson", "application/jsonl"], "text/plain")
schemathesis.serializer.alias(
    ["image/*", "audio/*", "application/x-npy", "application/vnd.apache.parquet", "application/x-parquet"],
    "application/octet-stream",
)
