"""The chapter's settings, but for its access log, which would only slow it down."""

import multiprocessing
import os

workers = multiprocessing.cpu_count() * 2 + 1
worker_class = "sync"  # with threads, gunicorn takes gthread
threads = 2
timeout = 120

bind = f"127.0.0.1:{os.environ['BENCH_PORT']}"

loglevel = "warning"

keepalive = 5
max_requests = 1000
max_requests_jitter = 50
