"""Whom to believe who a server is: for the servers that are called because somebody gave us their URL.

httpx has the same rule, but the processes that need it call nobody while they start, and httpx takes a quarter of a
second to import.
"""

import os
import ssl

import certifi


def context() -> ssl.SSLContext:
    """With the authorities of SSL_CERT_FILE or SSL_CERT_DIR, where the operator has set one, else those of certifi."""
    if file := os.environ.get("SSL_CERT_FILE"):
        return ssl.create_default_context(cafile=file)
    if folder := os.environ.get("SSL_CERT_DIR"):
        return ssl.create_default_context(capath=folder)
    return ssl.create_default_context(cafile=certifi.where())
