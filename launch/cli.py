"""The command line. Every option is also an environment variable; flags win, and are handed on as environment.

Its rule: a command reads its options and calls one function. What is heavy is imported by the command that needs it.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from headway import __version__, dialects, logs
from headway.errors import HeadwayError, SettingsError
from headway.keys import DEFAULT_TENANT, SCOPES, USUAL
from headway.settings import Settings, secret
from headway.tfserving.setup import Files

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A self-hosted queue for model predictions: durable, micro-batched, on your own devices.",
)
keys = typer.Typer(no_args_is_help=True, help="API keys, on the database directly: no server need run.")
app.add_typer(keys, name="keys")
models_app = typer.Typer(no_args_is_help=True, help="Models while they run, by the control plane: for operators.")
app.add_typer(models_app, name="models")

ModelsOption = Annotated[Path, typer.Option("--models", envvar="HEADWAY_MODELS", help="The folder of models.")]
HostOption = Annotated[str, typer.Option("--host", envvar="HEADWAY_HOST", help="The address to listen on.")]
PortOption = Annotated[
    int, typer.Option("--port", envvar="HEADWAY_PORT", min=0, max=65535, help="Of the data plane; 0 takes a free one.")
]
AdminPortOption = Annotated[
    int,
    typer.Option(
        "--admin-port",
        envvar="HEADWAY_ADMIN_PORT",
        min=0,
        max=65535,
        help="Of the control plane; 0 takes a free one.",
    ),
]
RedisOption = Annotated[
    str | None,
    typer.Option("--redis-url", envvar="HEADWAY_REDIS_URL", show_envvar=True, help="Redis 6.2 or Valkey, by URL."),
]
DatabaseOption = Annotated[
    str | None,
    typer.Option("--database-url", envvar="HEADWAY_DATABASE_URL", help="sqlite:///path or postgresql://…"),
]
BlobsOption = Annotated[
    str | None,
    typer.Option(
        "--blobs",
        envvar="HEADWAY_BLOBS",
        help="Where large inputs and outputs lie: a folder, or a URL like s3://bucket/prefix. The same for every part.",
    ),
]
DataOption = Annotated[Path, typer.Option("--data", envvar="HEADWAY_DATA", help="Where the embedded database lives.")]
DeviceMemoryOption = Annotated[
    str | None,
    typer.Option(
        "--device-memory",
        envvar="HEADWAY_DEVICE_MEMORY",
        help="What models may take on each device, like 6GiB; those that nobody asks for make room. Else a GPU's own.",
    ),
]
MetricsHostOption = Annotated[
    str, typer.Option("--metrics-host", envvar="HEADWAY_METRICS_HOST", help="The address of /metrics; it asks no key.")
]
MetricsPortOption = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        envvar="HEADWAY_METRICS_PORT",
        min=0,
        max=65535,
        help="Serve /metrics here; 0 takes a free one.",
    ),
]
UrlOption = Annotated[
    str | None,
    typer.Option("--url", envvar="HEADWAY_URL", help="The data plane of a server; http://127.0.0.1:8000 if not said."),
]
KeyOption = Annotated[str | None, typer.Option("--key", envvar="HEADWAY_API_KEY", help="An API key.")]
AdminUrlOption = Annotated[
    str | None,
    typer.Option(
        "--admin-url",
        envvar="HEADWAY_ADMIN_URL",
        help="The control plane of a server; http://127.0.0.1:8001 if not said.",
    ),
]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL")]
VersionArgument = Annotated[str, typer.Argument(metavar="VERSION")]
JsonOption = Annotated[
    bool, typer.Option("--json", envvar="HEADWAY_LIST_JSON", help="A JSON object a line, for scripts.")
]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="As `headway submit` printed it.")]
DialectOption = Annotated[
    list[str] | None,
    typer.Option(
        "--dialect",
        envvar="HEADWAY_DIALECTS",
        metavar="NAME=PORT,…",
        help="Speak another server's protocol at ports of its own: oip=8100,8101. May be given more than once.",
    ),
]
ModelConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--model-config-file",
        envvar="HEADWAY_MODEL_CONFIG_FILE",
        help="TF Serving's model.config: models beside those of the folder.",
    ),
]
ModelConfigPollOption = Annotated[
    int,
    typer.Option(
        "--model-config-file-poll-wait-seconds",
        envvar="HEADWAY_MODEL_CONFIG_FILE_POLL_WAIT_SECONDS",
        min=0,
        max=86_400,
        help="How often it is read again; 0: once.",
    ),
]
BatchingParametersOption = Annotated[
    Path | None,
    typer.Option(
        "--batching-parameters-file",
        envvar="HEADWAY_BATCHING_PARAMETERS_FILE",
        help="TF Serving's batching.config, for SavedModels without one of their own.",
    ),
]
PreferTfliteOption = Annotated[
    bool,
    typer.Option(
        "--prefer-tflite-model",
        envvar="HEADWAY_PREFER_TFLITE_MODEL",
        help="Of a version with saved_model.pb and model.tflite take the latter.",
    ),
]
InsecureOption = Annotated[
    bool,
    typer.Option("--insecure", envvar="HEADWAY_INSECURE", help="Listen beyond loopback although there are no keys."),
]


def main() -> None:
    """The console script. What the operator got wrong is one line on stderr and exit code 2."""
    try:
        app(prog_name="headway")
    except HeadwayError as error:
        print(f"headway: {error}", file=sys.stderr)
        sys.exit(2)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"headway {__version__}")
        raise typer.Exit


@app.callback()
def headway(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


@app.command()
def up(
    *,
    models: ModelsOption = Path("models"),
    data: DataOption = Path(".headway"),
    devices: Annotated[
        str, typer.Option(envvar="HEADWAY_DEVICES", help="auto (every CUDA GPU, else cpu), or a list: cuda:0,cuda:1.")
    ] = "auto",
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    admin_port: AdminPortOption = 8001,
    api_processes: Annotated[
        int,
        typer.Option(
            envvar="HEADWAY_API_PROCESSES",
            min=1,
            max=64,
            help="API processes behind the one port; the control plane of each further one is at the next admin port.",
        ),
    ] = 1,
    flower_port: Annotated[
        int, typer.Option(envvar="HEADWAY_FLOWER_PORT", min=0, max=65535, help="Of Flower; 0 turns it off.")
    ] = 5555,
    redis_url: RedisOption = None,
    database_url: DatabaseOption = None,
    blobs: BlobsOption = None,
    metrics_port: Annotated[
        int,
        typer.Option(
            envvar="HEADWAY_METRICS_PORT",
            min=0,
            max=65500,
            help="Of /metrics of the first worker, the next ports of the others and of the utility worker; "
            "0 takes free ones, which the log names.",
        ),
    ] = 0,
    device_memory: DeviceMemoryOption = None,
    dialect: DialectOption = None,
    model_config_file: ModelConfigOption = None,
    model_config_file_poll_wait_seconds: ModelConfigPollOption = 0,
    batching_parameters_file: BatchingParametersOption = None,
    prefer_tflite_model: PreferTfliteOption = False,
    insecure: InsecureOption = False,
) -> None:
    """Start everything on this machine. SIGINT or SIGTERM drains and stops it."""
    from launch.up import Options, run

    logs.configure("up")
    options = Options(
        models=models,
        data=data,
        devices=devices,
        host=host,
        port=port,
        admin_port=admin_port,
        api_processes=api_processes,
        flower_port=flower_port,
        metrics_port=metrics_port,
        redis_url=redis_url or secret(os.environ, "HEADWAY_REDIS_URL", "") or None,
        database_url=database_url or secret(os.environ, "HEADWAY_DATABASE_URL", "") or None,
        blobs=blobs,
        device_memory=device_memory,
        dialects=dialects.parse(dialect or ()),
        tfserving=Files(
            model_config=model_config_file,
            poll_s=model_config_file_poll_wait_seconds,
            batching_parameters=batching_parameters_file,
            prefer_tflite=prefer_tflite_model,
        ),
        insecure=insecure,
    )
    raise typer.Exit(run(options))


@app.command()
def api(
    *,
    models: ModelsOption = Path("models"),
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    admin_port: AdminPortOption = 8001,
    redis_url: RedisOption = None,
    database_url: DatabaseOption = None,
    blobs: BlobsOption = None,
    dialect: DialectOption = None,
    insecure: InsecureOption = False,
) -> None:
    """The data plane and the control plane."""
    from api.serve import main

    logs.configure("api")
    settings = _settings(
        redis_url,
        database_url,
        models=models,
        host=host,
        port=port,
        admin_port=admin_port,
        blobs=blobs,
        dialects=dialects.written(dialects.parse(dialect or ())),
        insecure="1" if insecure else "",
    )
    raise typer.Exit(main(settings))


@app.command()
def worker(
    *,
    device: Annotated[
        str, typer.Option(envvar="HEADWAY_DEVICE", help="cpu, cuda:N or mps; auto takes the first there is.")
    ] = "auto",
    models: ModelsOption = Path("models"),
    redis_url: RedisOption = None,
    database_url: DatabaseOption = None,
    blobs: BlobsOption = None,
    device_memory: DeviceMemoryOption = None,
    model_config_file: ModelConfigOption = None,
    model_config_file_poll_wait_seconds: ModelConfigPollOption = 0,
    batching_parameters_file: BatchingParametersOption = None,
    prefer_tflite_model: PreferTfliteOption = False,
    metrics_host: MetricsHostOption = "127.0.0.1",
    metrics_port: MetricsPortOption = None,
) -> None:
    """Computes predictions on one device."""
    from launch.devices import choose
    from workers.inference import main

    logs.configure("worker")
    settings = _settings(
        redis_url,
        database_url,
        models=models,
        blobs=blobs,
        device_memory=device_memory,
        model_config_file=model_config_file,
        model_config_file_poll_wait_seconds=model_config_file_poll_wait_seconds,
        batching_parameters_file=batching_parameters_file,
        prefer_tflite_model="1" if prefer_tflite_model else "",
    )
    chosen = choose(device, os.environ)[0]
    worker_id = os.environ.get("HEADWAY_WORKER_ID")
    raise typer.Exit(
        main(settings, device=chosen, worker_id=worker_id, metrics_host=metrics_host, metrics_port=metrics_port)
    )


@app.command()
def utility(
    *,
    redis_url: RedisOption = None,
    database_url: DatabaseOption = None,
    blobs: BlobsOption = None,
    metrics_host: MetricsHostOption = "127.0.0.1",
    metrics_port: MetricsPortOption = None,
) -> None:
    """Sends webhooks, and finds what was lost: dead workers' claims, hints that Redis forgot, what expired."""
    from workers.utility import main

    logs.configure("utility")
    raise typer.Exit(
        main(_settings(redis_url, database_url, blobs=blobs), metrics_host=metrics_host, metrics_port=metrics_port)
    )


@app.command()
def migrate(*, database_url: DatabaseOption = None) -> None:
    """Bring the database to this version's schema. Safe to run any number of times, and several at once."""
    from storage.migrate import upgrade

    logs.configure("migrate")
    upgrade(_settings(None, database_url).database_url)


@app.command()
def backup(
    path: Annotated[Path, typer.Argument(help="The new file to write.")], *, database_url: DatabaseOption = None
) -> None:
    """Copy the SQLite database to a new file, consistent, while everything runs. For PostgreSQL use pg_dump."""
    from storage.backup import backup

    logs.configure("backup")
    backup(_settings(None, database_url).database_url, path)


@app.command()
def flower(
    *,
    host: HostOption = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="HEADWAY_FLOWER_PORT", min=1, max=65535)] = 5555,
    redis_url: RedisOption = None,
) -> None:
    """Flower, to watch the workers. Its own settings are FLOWER_… variables."""
    from launch.flower import main

    logs.configure("flower")
    raise typer.Exit(main(_settings(redis_url, None).redis_url, host, port))


@app.command()
def submit(
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    input_: Annotated[
        str | None, typer.Argument(metavar="[INPUT]", help="JSON, or else a string; @FILE reads a file, - stdin.")
    ] = None,
    *,
    version: Annotated[str | None, typer.Option(envvar="HEADWAY_SUBMIT_VERSION")] = None,
    alias: Annotated[str | None, typer.Option(envvar="HEADWAY_SUBMIT_ALIAS")] = None,
    priority: Annotated[
        int | None, typer.Option(envvar="HEADWAY_SUBMIT_PRIORITY", help="0 (first) to 9; 5 if not said.")
    ] = None,
    queue_timeout: Annotated[
        float | None,
        typer.Option(envvar="HEADWAY_SUBMIT_QUEUE_TIMEOUT", help="Seconds; expired, if it has not begun by then."),
    ] = None,
    execution_timeout: Annotated[
        float | None, typer.Option(envvar="HEADWAY_SUBMIT_EXECUTION_TIMEOUT", help="Seconds on the device.")
    ] = None,
    max_attempts: Annotated[int | None, typer.Option(envvar="HEADWAY_SUBMIT_MAX_ATTEMPTS")] = None,
    webhook: Annotated[
        str | None, typer.Option(envvar="HEADWAY_SUBMIT_WEBHOOK", help="A URL that is told of the end.")
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(envvar="HEADWAY_SUBMIT_METADATA", metavar="NAME=VALUE", help="May be given more than once."),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            envvar="HEADWAY_SUBMIT_IDEMPOTENCY_KEY",
            help="Submitted again with the same key, it is the same prediction.",
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", envvar="HEADWAY_SUBMIT_WAIT", help="Print the output, once there is one.")
    ] = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Submit a prediction and print its id, or its output with --wait."""
    from launch.asking import asking, await_output, dumped, read_input, read_metadata

    with asking(url, key) as client:
        job = client.submit(
            model,
            read_input(input_),
            version=version,
            alias=alias,
            priority=priority,
            queue_timeout_seconds=queue_timeout,
            execution_timeout_seconds=execution_timeout,
            max_attempts=max_attempts,
            webhook=webhook,
            metadata=read_metadata(metadata) if metadata else None,
            idempotency_key=idempotency_key,
        )
        print(dumped(await_output(client, job.id)) if wait else job.id, flush=True)


@app.command()
def watch(id_: IdArgument, *, url: UrlOption = None, key: KeyOption = None) -> None:
    """Follow a prediction to its end: transitions, progress, partial outputs. Exit code 1 if it does not succeed."""
    from launch.asking import asking, watch

    with asking(url, key) as client:
        raise typer.Exit(0 if watch(client, id_).status == "succeeded" else 1)


@app.command()
def cancel(id_: IdArgument, *, url: UrlOption = None, key: KeyOption = None) -> None:
    """Cancel a prediction or a batch that has not ended, and print what it is now."""
    from launch.asking import asking, cancel

    with asking(url, key) as client:
        print(cancel(client, id_))


@app.command()
def retry(
    id_: Annotated[str | None, typer.Argument(metavar="[ID]", help="As `headway submit` printed it.")] = None,
    *,
    status: Annotated[
        str | None,
        typer.Option(
            envvar="HEADWAY_RETRY_STATUS",
            help="All that ended so, of all tenants: failed, expired or canceled. It asks the control plane.",
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(envvar="HEADWAY_RETRY_MODEL")] = None,
    version: Annotated[str | None, typer.Option(envvar="HEADWAY_RETRY_VERSION")] = None,
    code: Annotated[str | None, typer.Option(envvar="HEADWAY_RETRY_CODE", help="Of their errors.")] = None,
    tenant: Annotated[str | None, typer.Option(envvar="HEADWAY_RETRY_TENANT")] = None,
    since: Annotated[
        str | None, typer.Option(envvar="HEADWAY_RETRY_SINCE", help="Ended then or later: 2026-01-31T09:30:00Z.")
    ] = None,
    until: Annotated[str | None, typer.Option(envvar="HEADWAY_RETRY_UNTIL", help="Ended before.")] = None,
    url: UrlOption = None,
    admin_url: AdminUrlOption = None,
    key: KeyOption = None,
) -> None:
    """Queue a prediction that failed, expired or was canceled again, and print what it is now; or all that did."""
    from launch.asking import asking
    from launch.control import operating, retry_all

    filters = {"model": model, "version": version, "code": code, "tenant": tenant, "since": since, "until": until}
    if (id_ is None) == (status is None) or (status is None and any(filters.values())):
        raise SettingsError("name one prediction by its ID, or many by --status and what narrows it")
    if id_ is not None:
        with asking(url, key) as client:
            print(client.retry(id_).status)
        return
    with operating(admin_url, key) as operator:
        print(retry_all(operator, status=status, **filters))


@app.command("list")
def list_predictions(
    *,
    status: Annotated[str | None, typer.Option(envvar="HEADWAY_LIST_STATUS")] = None,
    model: Annotated[str | None, typer.Option(envvar="HEADWAY_LIST_MODEL")] = None,
    version: Annotated[str | None, typer.Option(envvar="HEADWAY_LIST_VERSION")] = None,
    limit: Annotated[int, typer.Option(envvar="HEADWAY_LIST_LIMIT", min=1, help="At most so many.")] = 20,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """List predictions, newest first."""
    from launch.asking import asking, show_list

    with asking(url, key) as client:
        show_list(client.list(status=status, model=model, version=version, limit=limit), as_json)


@app.command()
def batch(
    file: Annotated[str, typer.Argument(metavar="FILE", help="NDJSON, plain or gzip, or Parquet; - is stdin.")],
    *,
    model: Annotated[str, typer.Option(envvar="HEADWAY_BATCH_MODEL")],
    version: Annotated[str | None, typer.Option(envvar="HEADWAY_BATCH_VERSION")] = None,
    alias: Annotated[str | None, typer.Option(envvar="HEADWAY_BATCH_ALIAS")] = None,
    priority: Annotated[
        int | None, typer.Option(envvar="HEADWAY_BATCH_PRIORITY", help="0 (first) to 9, among batches.")
    ] = None,
    completion_window: Annotated[
        str | None,
        typer.Option(envvar="HEADWAY_BATCH_COMPLETION_WINDOW", help="Like 24h; what has not begun by then expires."),
    ] = None,
    webhook: Annotated[
        str | None, typer.Option(envvar="HEADWAY_BATCH_WEBHOOK", help="A URL that is told of the end.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(envvar="HEADWAY_BATCH_OUTPUT", help="The results; FILE's name with .results.ndjson, if not said."),
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Score a file, a prediction a line, and write the results in the same order. The same command again goes on.

    Exit code 0: all succeeded. 1: the batch failed, or the server was away for too long. 2: refused. 3: some lines have
    no output.
    """
    from launch.asking import asking
    from launch.scoring import score

    options = {
        "version": version,
        "alias": alias,
        "priority": priority,
        "completion_window": completion_window,
        "webhook": webhook,
    }
    with asking(url, key, retries=0) as client:
        raise typer.Exit(score(client, file, model, output, options))


@models_app.command("list")
def models_list(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="All, if not said.")] = None,
    *,
    as_json: JsonOption = False,
    admin_url: AdminUrlOption = None,
    key: KeyOption = None,
) -> None:
    """Versions: where they are loaded, what share they take, and what they have done."""
    from launch.control import operating, show_models

    with operating(admin_url, key) as operator:
        show_models(operator, model, as_json)


@models_app.command("import")
def models_import(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="As `bentoml models export` or `bentoml export` wrote them.")
    ],
    *,
    models: ModelsOption = Path("models"),
) -> None:
    """Put exported models and services of BentoML (.bentomodel, .bento) into the models folder; no server need run."""
    from headway.bentoml.exported import unpack

    for file in files:
        print(unpack(file, models))


@models_app.command("load")
def models_load(
    model: ModelArgument, version: VersionArgument, *, admin_url: AdminUrlOption = None, key: KeyOption = None
) -> None:
    """Keep a version loaded whatever the policy says, and take an `unload` back."""
    _change_version("load", model, version, admin_url, key)


@models_app.command("unload")
def models_unload(
    model: ModelArgument, version: VersionArgument, *, admin_url: AdminUrlOption = None, key: KeyOption = None
) -> None:
    """Free what a version takes. What is submitted to it waits until `load` or `reset`."""
    _change_version("unload", model, version, admin_url, key)


@models_app.command("reset")
def models_reset(
    model: ModelArgument, version: VersionArgument, *, admin_url: AdminUrlOption = None, key: KeyOption = None
) -> None:
    """Leave it to the policy again whether a version is loaded."""
    _change_version("reset", model, version, admin_url, key)


def _change_version(verb: str, model: str, version: str, admin_url: str | None, key: str | None) -> None:
    from launch.control import change_version, operating

    with operating(admin_url, key) as operator:
        print(change_version(operator, verb, model, version))


@models_app.command("alias")
def models_alias(
    model: ModelArgument,
    alias: Annotated[str, typer.Argument(metavar="ALIAS")],
    version: Annotated[str | None, typer.Argument(metavar="[VERSION]")] = None,
    *,
    delete: Annotated[bool, typer.Option("--delete", help="Take it away, also where model.toml has it.")] = False,
    admin_url: AdminUrlOption = None,
    key: KeyOption = None,
) -> None:
    """Point an alias at a version, from the next submission on."""
    from launch.control import change_alias, operating

    with operating(admin_url, key) as operator:
        print(change_alias(operator, model, alias, version, delete))


@models_app.command("traffic")
def models_traffic(
    model: ModelArgument,
    weights: Annotated[
        list[str] | None, typer.Argument(metavar="[VERSION=WEIGHT]...", help="Only the shares matter: 1=90 2=10.")
    ] = None,
    *,
    shadow: Annotated[
        list[str] | None,
        typer.Option(
            envvar="HEADWAY_TRAFFIC_SHADOW",
            metavar="VERSION",
            help="Gets copies, to be compared; may be given more than once.",
        ),
    ] = None,
    sticky: Annotated[
        str | None,
        typer.Option(
            envvar="HEADWAY_TRAFFIC_STICKY", help="A key of metadata: the same value goes to the same version."
        ),
    ] = None,
    latest: Annotated[bool, typer.Option("--latest", help="All to the latest version, and no shadows.")] = False,
    admin_url: AdminUrlOption = None,
    key: KeyOption = None,
) -> None:
    """Split what names neither version nor alias between versions; without anything said, show how it is split."""
    from launch.control import change_traffic, operating

    with operating(admin_url, key) as operator:
        print(change_traffic(operator, model, weights or [], shadow or [], sticky, latest))


@models_app.command("pause")
def models_pause(model: ModelArgument, *, admin_url: AdminUrlOption = None, key: KeyOption = None) -> None:
    """Let workers take nothing more of a model. What is submitted is accepted and waits."""
    _change_queue("pause", model, admin_url, key)


@models_app.command("resume")
def models_resume(model: ModelArgument, *, admin_url: AdminUrlOption = None, key: KeyOption = None) -> None:
    """Let workers go on."""
    _change_queue("resume", model, admin_url, key)


def _change_queue(verb: str, model: str, admin_url: str | None, key: str | None) -> None:
    from launch.control import change_queue, operating

    with operating(admin_url, key) as operator:
        print(change_queue(operator, verb, model))


@models_app.command("purge")
def models_purge(
    model: ModelArgument,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask first.")] = False,
    admin_url: AdminUrlOption = None,
    key: KeyOption = None,
) -> None:
    """Cancel all that is queued for a model, of every tenant, but for items of batches. A terminal is asked first."""
    from launch.control import operating, purge

    if not yes and sys.stdin.isatty():
        typer.confirm(f"Cancel all that is queued for {model}?", abort=True)
    with operating(admin_url, key) as operator:
        print(purge(operator, model))


@models_app.command("shadows")
def models_shadows(
    model: ModelArgument,
    version: VersionArgument,
    *,
    limit: Annotated[int, typer.Option(envvar="HEADWAY_LIST_LIMIT", min=1, help="At most so many.")] = 20,
    as_json: JsonOption = False,
    admin_url: AdminUrlOption = None,
    key: KeyOption = None,
) -> None:
    """What a version answered to copies beside what their originals were answered, newest first."""
    from launch.control import operating, show_shadows

    with operating(admin_url, key) as operator:
        show_shadows(operator, model, version, limit, as_json)


webhooks = typer.Typer(no_args_is_help=True, help="What receivers need to check webhooks.")
app.add_typer(webhooks, name="webhooks")


@webhooks.callback()
def _webhooks() -> None:
    pass


@webhooks.command("secret")
def webhooks_secret(
    *,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Make a new one; for 24 hours the old one signs as well.")
    ] = False,
    database_url: DatabaseOption = None,
) -> None:
    """Print the secret that signs webhooks."""
    from headway.keys import DEFAULT_TENANT
    from storage.deliveries import Secrets
    from storage.engine import Database

    settings = _settings(None, database_url)
    database = Database.open(settings.database_url)
    try:
        secrets = Secrets(database, settings.webhook_secret)
        print(secrets.rotate(DEFAULT_TENANT) if rotate else secrets.valid(DEFAULT_TENANT)[0])
    finally:
        database.close()


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="The model's name: letters, digits, . _ -")],
    *,
    models: ModelsOption = Path("models"),
) -> None:
    """Write a model.py and a model.toml to start from."""
    from launch.scaffold import create

    print(create(models, name))


@app.command()
def check(
    model_folder: Annotated[Path, typer.Argument(help="models/NAME")],
    *,
    device: Annotated[str, typer.Option(envvar="HEADWAY_DEVICE", help="cpu, cuda:N, mps or auto.")] = "auto",
) -> None:
    """Load a model, run it once and print shapes and times; no server."""
    from rich.console import Console

    from launch.check import run
    from launch.devices import choose

    raise typer.Exit(run(model_folder, choose(device, os.environ)[0], Console()))


@keys.command()
def create(
    *,
    tenant: Annotated[
        str, typer.Option(envvar="HEADWAY_KEY_TENANT", help="Whose predictions its holder makes and sees.")
    ] = DEFAULT_TENANT,
    scope: Annotated[
        list[str] | None,
        typer.Option(envvar="HEADWAY_KEY_SCOPES", help=f"One of {', '.join(SCOPES)}; may be given more than once."),
    ] = None,
    name: Annotated[str, typer.Option(envvar="HEADWAY_KEY_NAME", help="To know it by in lists.")] = "",
    rate: Annotated[
        float | None,
        typer.Option(envvar="HEADWAY_KEY_RATE", help="Requests a second it may make of each API process; else any."),
    ] = None,
    weight: Annotated[
        float | None,
        typer.Option(envvar="HEADWAY_KEY_WEIGHT", help="The tenant's share beside other tenants', from now on; 1."),
    ] = None,
    data: DataOption = Path(".headway"),
    database_url: DatabaseOption = None,
) -> None:
    """Make a key, for `predict` and `read` if no scope is given. It is printed once, alone on stdout."""
    from launch.keys import create

    url = _database_url(database_url, data)
    print(create(url, tenant, scope or USUAL, name, rate=rate, weight=weight), flush=True)


@keys.command("list")
def list_(*, data: DataOption = Path(".headway"), database_url: DatabaseOption = None) -> None:
    """All keys, oldest first, revoked ones too."""
    from launch.keys import lines

    print("\n".join(lines(_database_url(database_url, data))))


@keys.command()
def revoke(
    id_: Annotated[str, typer.Argument(metavar="ID", help="As `headway keys list` shows it.")],
    *,
    data: DataOption = Path(".headway"),
    database_url: DatabaseOption = None,
) -> None:
    """Refuse a key from now on; APIs that run do so within 5 seconds."""
    from launch.keys import revoke

    revoke(_database_url(database_url, data), id_)


def _database_url(database_url: str | None, data: Path) -> str:
    """As `headway up` finds it."""
    from storage.engine import embedded_url

    return database_url or secret(os.environ, "HEADWAY_DATABASE_URL", "") or embedded_url(data)


def _settings(redis_url: str | None, database_url: str | None, **options: object) -> Settings:
    """Flags become environment, which is where every part reads its settings, and their children too."""
    given = {"redis_url": redis_url, "database_url": database_url, **options}
    os.environ.update({f"HEADWAY_{name.upper()}": str(value) for name, value in given.items() if value is not None})
    return Settings.from_environ()
