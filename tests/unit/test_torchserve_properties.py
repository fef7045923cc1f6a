"""TorchServe's config.properties: Java's form, what is heeded, and what is refused."""

from pathlib import Path

import pytest

from headway.errors import SettingsError
from headway.properties import FILE, Properties, parse, read
from headway.registration import Registration


def said(folder: Path, text: str, **environ: str) -> Properties:
    (folder / FILE).write_text(text, encoding="utf-8")
    return read(folder, "", environ)


def test_without_a_file_nothing_is_said_and_one_that_is_named_must_be_there(tmp_path: Path) -> None:
    assert read(tmp_path, "", {}) == Properties()
    with pytest.raises(SettingsError, match="HEADWAY_TORCHSERVE_CONFIG"):
        read(tmp_path, str(tmp_path / "other"), {})
    (tmp_path / "other").write_text("load_models=all")
    assert read(tmp_path, str(tmp_path / "other"), {}).load_all


def test_keys_are_read_as_java_reads_them() -> None:
    text = "# no\n! no\n a = 1 \nb:2\r\nc 3\nd=x\\\n   y\\\\\n\ne\nf\\=g=\\u00e9\\t.\na=4\n"
    assert parse(text) == {"a": "4", "b": "2", "c": "3", "d": "xy\\", "e": "", "f=g": "é\t."}


def test_archives_are_named_or_all(tmp_path: Path) -> None:
    assert said(tmp_path, "load_models=a.mar, b=c.mar").load == (("", "a.mar"), ("b", "c.mar"))
    assert said(tmp_path, "load_models=ALL").load_all
    assert said(tmp_path, "load_models=none").load == ()


@pytest.mark.parametrize(
    "text",
    [
        "load_models=a.mar,,b.mar",
        "load_models=a=",
        "load_models==a.mar",
        "default_workers_per_model=two",
        "default_response_timeout=0",
        "job_queue_size=-1",
        "max_request_size=1.5",
        "enable_envvars_config=yes",
        "inference_address=8080",
        "inference_address=http://h:99999",
        "models={",
        "models=[]",
        'models={"m": {"1.0": {"batchSize": "four"}}}',
        'models={"m": {"1.0": {"batchSize": 0}}}',
        'models={"m": {"1.0": {"minWorkers": 2, "maxWorkers": 1}}}',
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_key(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match=rf"config\.properties: {text.partition('=')[0]}\b"):
        said(tmp_path, text)


def test_what_is_not_heeded_is_told(tmp_path: Path) -> None:
    found = said(
        tmp_path, 'vmargs=-Xmx1g\nmax_response_size=5\nmodels={"m": {"1.0": {"marName": "m", "deviceIds": 1}}}'
    )
    assert found.warnings == (
        f"{found.file}: not heeded: max_response_size, vmargs",
        f"{found.file}: models, m 1.0: not heeded: deviceIds",
    )
    assert said(tmp_path, "job_queue_size=5").warnings == ()


def test_the_environment_has_the_word_only_where_the_file_lets_it(tmp_path: Path) -> None:
    text = "default_response_timeout=5\n"
    assert said(tmp_path, text, TS_DEFAULT_RESPONSE_TIMEOUT="7").default_response_timeout == 5
    text += "enable_envvars_config=true\n"
    assert said(tmp_path, text, TS_DEFAULT_RESPONSE_TIMEOUT="7", TS_JOB_QUEUE_SIZE="9").default_response_timeout == 7
    assert said(tmp_path, text, TS_JOB_QUEUE_SIZE="9").job_queue_size == 9


def test_addresses_that_are_not_those_of_the_dialect_are_told_with_both(tmp_path: Path) -> None:
    text = "inference_address=http://127.0.0.1:8080\nmanagement_address=http://0.0.0.0:8081\n"
    found = said(tmp_path, f"{text}metrics_address=http://127.0.0.1:8082")
    inference, management, metrics = found.differing("127.0.0.1", {"inference": 9000, "management": 8081})
    assert "127.0.0.1:8080" in inference
    assert "127.0.0.1:9000" in inference
    assert "0.0.0.0:8081" in management
    assert "8082" in metrics
    ports = {"inference": 8080, "management": 8081, "metrics": 8082}
    assert list(found.differing("127.0.0.1", ports)) == [management]
    assert list(said(tmp_path, text.replace("0.0.0.0", "localhost")).differing("127.0.0.1", ports)) == []


def test_the_registration_outranks_the_archive_and_that_the_file(tmp_path: Path) -> None:
    version = '{"minWorkers": 2, "batchSize": 4, "responseTimeout": 3}'
    text = "default_response_timeout=9\ndefault_workers_per_model=5\njob_queue_size=8\n"
    text += f'models={{"m": {{"1.0": {version}}}}}'
    found = said(tmp_path, text)
    filled = found.fill(Registration(model_name="m", model_version="1.0", batch_size=6), {"minWorkers": 1})
    assert (filled.batch_size, filled.min_workers, filled.response_timeout, filled.max_queue) == (6, None, 3, 8)
    other = found.fill(Registration(model_name="n", model_version="1.0"), {})
    assert (other.batch_size, other.min_workers, other.response_timeout) == (None, 5, 9)
