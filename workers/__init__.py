"""The workers: Celery intake, the device process and what runs beside them."""
