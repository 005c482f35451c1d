"""The OCI distribution API (distribution-spec v1.1) on HTTP."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sized
from traceback import clear_frames
from typing import Final
from urllib.parse import quote, urlencode, urlsplit

from assay.adapters.registry.auth import CredentialSource, DockerConfig
from assay.adapters.registry.failures import address
from assay.adapters.registry.http import OPERATION_SECONDS, REDIRECTS, RegistryAnswer, Transport, length_of
from assay.adapters.registry.upload import BlobUpload, upload_location
from assay.errors import ManifestMismatch, RegistryBroken, RegistryContent, RegistryError, UsageError
from assay.evidence.oci import ACCEPT, INDEX, MAX_BYTES, Descriptor, Manifest, fallback_tag
from assay.evidence.reference import TAG, Reference, Repository
from assay.foundation.digest import DIGEST, sha256_of
from assay.foundation.foreign import ForeignError, read_json
from assay.ports.registry import Chunks, Traffic

__all__ = ["HttpRegistry", "connect", "resolve_digest"]

_ACCEPT: Final = ", ".join(ACCEPT)
CHUNK: Final = 64 << 20
"""Bytes of one piece of a large upload: below the body limits (100 MB) of common proxies."""
UPLOAD_ATTEMPTS: Final = 3
LIST_BYTES: Final = 32 << 20
"""Bytes of one answer of a list: docker-registry 2.8 gives all tags in one."""
LIST_NAMES: Final = 400_000
"""Names of a list in all."""
LIST_PAGES: Final = 1000
SMALL: Final = 1 << 16
"""Bytes up to which a blob is sent without asking whether it is there."""


def connect(
    *,
    insecure: Collection[str] = (),
    credentials: CredentialSource | None = None,
    seconds: float = OPERATION_SECONDS,
) -> HttpRegistry:
    """Return a client with the credentials that `docker login` keeps, or with others.

    Args:
        seconds: how long it may be busy with registries in all.
    """
    return HttpRegistry(
        Transport(credentials=credentials or DockerConfig(), insecure=insecure, operation_seconds=seconds)
    )


def resolve_digest(reference: str, *, patient: bool = True) -> str:
    """Return the digest that a registry gives for a reference, `sha256:...`.

    Args:
        reference: an image.
        patient: ask again, for half a minute, a registry that does not answer.

    Raises:
        RegistryError: the registry could not be asked, or has nothing under that name.
        UsageError: it is not a reference.
    """
    wanted = Reference.parse(reference)
    http = Transport(credentials=DockerConfig()) if patient else Transport(credentials=DockerConfig(), attempts=1)
    found = HttpRegistry(http).resolve(wanted.repository, wanted.key)
    if found is None:
        raise RegistryError(f"there is no {reference}", hint="check the name, and that you may read the repository")
    return found.digest


def _pull(repository: Repository) -> str:
    return f"repository:{repository.path}:pull"


def _push(repository: Repository) -> str:
    return f"repository:{repository.path}:pull,push"


class HttpRegistry:
    """Speaks with any registry; satisfies `assay.ports.registry.Registry`, whose docstrings are the contract."""

    def __init__(self, transport: Transport, *, chunk: int = CHUNK) -> None:
        self._http = transport
        self._chunk = chunk

    @property
    def traffic(self) -> Traffic:
        """What went over the wire so far."""
        return self._http.traffic

    # Manifests

    def resolve(self, repository: Repository, key: str) -> Descriptor | None:
        """See the port. A registry that leaves the digest out of HEAD is asked for the bytes."""
        answer = self._http.send(
            "HEAD",
            repository.host,
            f"v2/{repository.path}/manifests/{key}",
            scopes=[_pull(repository)],
            headers={"Accept": _ACCEPT},
            ok=(200, 404),
        )
        if answer.status == 404:
            return None
        digest = answer.headers.get("Docker-Content-Digest", "")
        kind = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        size = length_of(answer.headers)
        if not DIGEST.fullmatch(digest) or kind not in ACCEPT or size is None:
            manifest = self.manifest(repository, key)
            return manifest.descriptor if manifest else None
        if DIGEST.fullmatch(key) and digest != key:
            raise ManifestMismatch(f"{repository.at(key)}: the registry says that it is {digest}")
        return Descriptor(media_type=kind, digest=digest, size=size)

    def manifest(self, repository: Repository, key: str) -> Manifest | None:
        """See the port."""
        answer = self._http.send(
            "GET",
            repository.host,
            f"v2/{repository.path}/manifests/{key}",
            scopes=[_pull(repository)],
            headers={"Accept": _ACCEPT},
            ok=(200, 404),
            limit=MAX_BYTES,
        )
        if answer.status == 404:
            return None
        manifest = Manifest.parse(
            answer.body, answer.headers.get("Content-Type", ""), expected=key if DIGEST.fullmatch(key) else None
        )
        told = answer.headers.get("Docker-Content-Digest")
        if told is not None and told != manifest.digest:
            raise ManifestMismatch(f"{repository}: the registry calls the bytes of {manifest.digest} {told}")
        return manifest

    def put_manifest(self, repository: Repository, key: str, manifest: Manifest) -> bool:
        """See the port."""
        if DIGEST.fullmatch(key) and key != manifest.digest:
            raise ManifestMismatch(f"{repository}: bytes of {manifest.digest} cannot be put as {key}")
        answer = self._http.send(
            "PUT",
            repository.host,
            f"v2/{repository.path}/manifests/{key}",
            scopes=[_push(repository)],
            headers={"Content-Type": manifest.media_type},
            body=manifest.raw,
            ok=(201,),
            # Another publisher may be writing the links of these very blobs (measured with docker-registry 2.8).
            races=("MANIFEST_BLOB_UNKNOWN", "DIGEST_INVALID"),
        )
        told = answer.headers.get("Docker-Content-Digest")
        if told is not None and told != manifest.digest:
            raise ManifestMismatch(f"{repository}: {manifest.digest} was sent, the registry took it as {told}")
        return "OCI-Subject" in answer.headers

    def delete_manifest(self, repository: Repository, digest: str) -> None:
        """See the port."""
        self._http.send(
            "DELETE",
            repository.host,
            f"v2/{repository.path}/manifests/{digest}",
            scopes=[f"repository:{repository.path}:delete,pull,push"],
            ok=(202, 404),
        )

    # Blobs

    def has_blob(self, repository: Repository, digest: str) -> bool:
        """See the port."""
        path = f"v2/{repository.path}/blobs/{digest}"
        answer = self._http.send("HEAD", repository.host, path, scopes=[_pull(repository)], ok=(200, 404))
        return answer.status == 200

    def blob(self, repository: Repository, blob: Descriptor, *, limit: int) -> bytes | None:
        """See the port."""
        if blob.size > limit:
            raise RegistryContent(
                f"{repository.at(blob.digest)} has {blob.size} bytes, more than the {limit} that are read"
            )
        path = f"v2/{repository.path}/blobs/{blob.digest}"
        answer = self._http.send(
            "GET",
            repository.host,
            path,
            scopes=[_pull(repository)],
            limit=limit,
            ok=(200, 404),
            expected=blob.size,
        )
        if answer.status == 404:
            return None
        found = sha256_of(answer.body)
        if found != blob.digest:
            raise ManifestMismatch(f"{repository}: the registry sent bytes of {found} for the blob {blob.digest}")
        return answer.body

    def put_blob(self, repository: Repository, data: bytes) -> str:
        """See the port."""
        digest = sha256_of(data)
        self.upload(
            repository,
            Descriptor(media_type="application/octet-stream", digest=digest, size=len(data)),
            lambda: (data,),
        )
        return digest

    def upload(self, repository: Repository, blob: Descriptor, chunks: Chunks) -> None:
        """See the port. An upload that cannot be taken up again where it failed is started anew."""
        failure: RegistryError | None = None
        for _ in range(UPLOAD_ATTEMPTS):
            # To ask first costs as much as a small blob itself.
            try:
                if blob.size > SMALL and self.has_blob(repository, blob.digest):
                    return
            except RegistryBroken:
                # A link that was half written when the disk was full: sending the blob writes it anew.
                pass
            try:
                BlobUpload(self._http, repository, blob, chunks, chunk=self._chunk).run()
            except ManifestMismatch:
                raise
            except RegistryError as error:
                # The frames that it went through hold a piece of the blob.
                clear_frames(error.__traceback__)
                failure = error
            else:
                return
        assert failure is not None
        raise failure

    def mount(self, repository: Repository, digest: str, source: Repository) -> bool:
        """See the port."""
        if source.host != repository.host:
            return False
        query = urlencode({"mount": digest, "from": source.path})
        answer = self._http.send(
            "POST",
            repository.host,
            f"v2/{repository.path}/blobs/uploads/?{query}",
            # A mount needs two permissions: to push here and to pull there.
            scopes=[_push(repository), _pull(source)],
            headers={"Content-Length": "0"},
            ok=(201, 202),
            repeat=True,
        )
        if answer.status == 202:
            # It began an upload instead (spec.md, "Mounting a blob from another repository"); that one is given up.
            self._http.send(
                "DELETE",
                repository.host,
                upload_location(answer),
                scopes=[_push(repository)],
                ok=(200, 202, 204, 404, 405),
            )
            return self.has_blob(repository, digest)
        return True

    # Lists

    def tags(self, repository: Repository) -> list[str]:
        """See the port."""
        found: set[str] = set()
        for answer in self._pages(repository.host, f"v2/{repository.path}/tags/list?n=1000", scope=_pull(repository)):
            names = _json(answer).get("tags")
            if isinstance(names, list):
                found.update(name for name in names if isinstance(name, str) and TAG.fullmatch(name))
            _bound(found, repository.host)
        return sorted(found)

    def repositories(self, host: str) -> list[Repository]:
        """See the port. The catalog is not a part of the specification; docker-registry has it, GHCR does not."""
        found: set[Repository] = set()
        answered = False
        for answer in self._pages(host, "v2/_catalog?n=1000", scope="registry:catalog:*"):
            answered = True
            names = _json(answer).get("repositories")
            if isinstance(names, list):
                found.update(one for name in names if (one := _repository(host, name)) is not None)
            _bound(found, host)
        if not answered:
            raise RegistryError(f"{host} does not tell which repositories it has", hint=f"name one: {host}/PATH")
        return sorted(found)

    def referrers(self, repository: Repository, digest: str) -> tuple[list[Descriptor], bool]:
        """See the port."""
        path = f"v2/{repository.path}/referrers/{quote(digest)}"
        found: list[Descriptor] = []
        native = False
        # ghcr.io sends this one to a page of its own, which has no such list and limits how often it is asked.
        for answer in self._pages(repository.host, path, scope=_pull(repository), stay=True):
            if answer.headers.get("Content-Type", "").partition(";")[0].strip() != INDEX:
                # Something answers, but not the referrers API.
                break
            native = True
            try:
                found.extend(Manifest.parse(answer.body, INDEX).manifests)
            except RegistryContent as error:
                # An index that others wrote may be passed over; what the registry itself says may not.
                raise RegistryError(f"{repository}: the list of referrers cannot be read: {error.message}") from error
            _bound(found, repository.host)
        if native:
            return found, True
        index = self.manifest(repository, fallback_tag(digest))
        return (list(index.manifests) if index else []), False

    def _pages(self, host: str, path: str, *, scope: str, stay: bool = False) -> Iterator[RegistryAnswer]:
        redirects = tuple(REDIRECTS) if stay else ()
        for _ in range(LIST_PAGES):
            answer = self._http.send(
                "GET",
                host,
                path,
                scopes=[scope],
                ok=(200, 400, 404, 405, 501, *redirects),
                limit=LIST_BYTES,
                stay=stay,
            )
            if answer.status != 200:
                return
            yield answer
            link = answer.headers.get("Link", "")
            target, _, parameters = link.partition(">")
            if not target.startswith("<") or "next" not in parameters:
                return
            path = address(target[1:], base=answer.url)
            if urlsplit(path)[:2] != urlsplit(answer.url)[:2]:
                raise RegistryError(f"{host}: its list continues at another host, {urlsplit(path).netloc[:80]!r}")
        raise RegistryError(f"{host}: the list {path.partition('?')[0]} does not end")


def _json(answer: RegistryAnswer) -> dict[str, object]:
    try:
        value = read_json(answer.body, limit=LIST_BYTES, items=LIST_NAMES)
    except ForeignError as error:
        raise RegistryContent(f"{answer.url.partition('?')[0]}: the answer cannot be read: {error}") from error
    return value if isinstance(value, dict) else {}


def _bound(found: Sized, host: str) -> None:
    if len(found) > LIST_NAMES:
        raise RegistryContent(f"{host}: a list has more than {LIST_NAMES} names")


def _repository(host: str, name: object) -> Repository | None:
    """Return a repository of a catalog; invalid names are skipped."""
    try:
        return Repository.parse(f"{host}/{name}") if isinstance(name, str) else None
    except UsageError:
        return None
