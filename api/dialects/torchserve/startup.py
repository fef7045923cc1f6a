"""What `config.properties` has loaded at the start: archives of the models folder become version folders.

What is registered already stays as it is, unless it was registered here: then the file is heeded anew. An archive that
cannot be registered is told in the log, and stops nobody else.
"""

import logging
from pathlib import Path

import msgspec

from api.dialects.torchserve import store
from api.dialects.torchserve.errors import Refused
from api.service import Service
from headway import mar, registration
from headway.errors import ManifestError, StorageUnavailable
from headway.properties import Properties
from headway.registration import Registration

log = logging.getLogger(__name__)


def warn(service: Service) -> None:
    """Of what the file says that is not heeded."""
    said, settings = service.torchserve, service.settings
    for warning in (*said.warnings, *said.differing(settings.host, settings.dialects["torchserve"])):
        log.warning("%s", warning if warning in said.warnings else f"{said.file}: {warning}")
    if (most := said.max_request_size) is not None and most > settings.max_body_bytes:
        log.warning(
            "%s: max_request_size is %d, and HEADWAY_MAX_BODY_BYTES is %d: the smaller counts",
            said.file,
            most,
            settings.max_body_bytes,
        )


def load(service: Service) -> None:
    """Blocks, for as long as archives take to be unpacked."""
    models, said = service.settings.models, service.torchserve
    wanted = said.load
    if said.load_all:
        wanted = tuple(("", file.name) for file in sorted(models.glob("*.mar")))
    for name, url in wanted:
        try:
            _load(service, store.find(models, url, name), url)
        except (Refused, ManifestError, OSError) as error:
            log.error("%s: load_models: %s is not registered: %s", said.file, url, error)
        except StorageUnavailable as error:
            log.warning("%s: load_models: %s is registered once a worker finds it: %s", said.file, url, error)


def _load(service: Service, archive: store.Archive, url: str) -> None:
    models, said = service.settings.models, service.torchserve
    target = archive.target(models)
    if target.exists():
        if archive.file != target.resolve():
            _say_anew(target, said)
        return
    asked = Registration(
        model_name=archive.name, model_version=archive.version, model_url=url, unpacked=True, by_properties=True
    )
    found = store.unpack(models, archive, asked, said)
    log.info("%s version %s is registered from %s", archive.name, archive.version, url)
    service.models.register(found)
    idle = registration.read(target).min_workers == 0
    service.models.wish(found.model, found.version, "unload" if idle else "load")


def _say_anew(target: Path, said: Properties) -> None:
    former = registration.read(target)
    if not former.by_properties or former.unregistered:
        return
    bare = Registration(
        model_name=former.model_name,
        model_version=former.model_version,
        model_url=former.model_url,
        unpacked=former.unpacked,
        by_properties=True,
    )
    filled = said.fill(bare, mar.read(target).config)
    if msgspec.structs.asdict(filled) != msgspec.structs.asdict(former):
        store.say(target, filled)
