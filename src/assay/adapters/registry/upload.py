"""Sends one blob: in pieces, taken up again where a connection broke; whole to a registry that takes no pieces."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlencode, urlsplit, urlunsplit

from assay.adapters.registry.failures import address
from assay.adapters.registry.http import RegistryAnswer, StreamedBody, Transport
from assay.errors import ManifestMismatch, RegistryError
from assay.evidence.oci import Descriptor
from assay.evidence.reference import Repository
from assay.foundation.foreign import ForeignError, read_integer
from assay.ports.registry import Chunks

__all__ = ["BlobUpload", "upload_location"]

LARGEST_CHUNK: Final = 1 << 30
"""A registry that asks for larger pieces of an upload gets ours."""
RESUMES: Final = 4
"""How often one piece is taken up again."""
NO_PIECES: Final = frozenset({400, 404, 405, 411, 416, 501})
"""What registries answer to a PATCH that they do not know (distribution-spec leaves pieces to them)."""
_CAME: Final = re.compile(r"(?:bytes=)?0-([0-9]{1,15})")


class BlobUpload:
    """One upload of one blob.

    Args:
        http: speaks HTTP.
        repository: where it goes.
        blob: what it has to be.
        chunks: gives its bytes, each time from the start.
        chunk: bytes of one piece.
    """

    def __init__(
        self, http: Transport, repository: Repository, blob: Descriptor, chunks: Chunks, *, chunk: int
    ) -> None:
        self._http = http
        self._repository = repository
        self._scopes = [f"repository:{repository.path}:pull,push"]
        self._blob = blob
        self._chunks = chunks
        self._chunk = chunk
        self._location = ""
        self._sent = 0

    def run(self) -> None:
        """Send it.

        Raises:
            ManifestMismatch: its bytes are not those of its digest.
            RegistryError: the registry refuses or fails.
        """
        if not self._in_pieces():
            self._whole()

    def _start(self) -> RegistryAnswer:
        # Starting an upload twice leaves an empty one behind, which the registry sweeps up.
        answer = self._http.send(
            "POST",
            self._repository.host,
            f"v2/{self._repository.path}/blobs/uploads/",
            scopes=self._scopes,
            headers={"Content-Length": "0"},
            ok=(202,),
            repeat=True,
        )
        self._location = upload_location(answer)
        return answer

    def _in_pieces(self) -> bool:
        """Send it in pieces; False if the registry takes none."""
        start = self._start()
        try:
            least = read_integer(start.headers.get("OCI-Chunk-Min-Length", ""), most=LARGEST_CHUNK)
        except ForeignError:
            least = 0
        checksum, last = hashlib.sha256(), b""
        for piece in _pieces(self._chunks, max(self._chunk, least)):
            checksum.update(piece)
            if self._sent + len(piece) >= self._blob.size:
                last = piece
                self._sent += len(piece)
            elif not self._piece(piece):
                return False
            # The next one is put together while this name is held.
            del piece
        self._check(checksum.hexdigest())
        self._finish(last)
        return True

    def _piece(self, piece: bytes) -> bool:
        """Send a piece, and what is missing of it after a failure; False if the registry takes no pieces."""
        begin, end = self._sent, self._sent + len(piece)
        for left in reversed(range(RESUMES)):
            try:
                answer = self._http.send(
                    "PATCH",
                    self._repository.host,
                    self._location,
                    scopes=self._scopes,
                    headers={
                        "Content-Type": "application/octet-stream",
                        "Content-Range": f"{self._sent}-{end - 1}",
                    },
                    body=piece[self._sent - begin :],
                    ok=(202, *NO_PIECES),
                )
            except RegistryError:
                if not left or not self._asked(begin, end):
                    raise
                if self._sent == end:
                    break
                continue
            if answer.status != 202:
                return False
            self._location = upload_location(answer)
            self._sent = end
            break
        return True

    def _asked(self, begin: int, end: int) -> bool:
        """Ask the registry how much it has; False if it does not tell, or tells what cannot be."""
        try:
            answer = self._http.send("GET", self._repository.host, self._location, scopes=self._scopes, ok=(204,))
            found = _CAME.fullmatch(answer.headers.get("Range", "").strip())
            location = upload_location(answer)
        except RegistryError:
            return False
        # `0-0` is what registries say of nothing, too: one byte is sent again by starting anew.
        came = 0 if found is None or found[1] == "0" else int(found[1]) + 1
        if not begin <= came <= end:
            return False
        self._sent, self._location = came, location
        return True

    def _whole(self) -> None:
        self._start()
        self._finish(StreamedBody(size=self._blob.size, pieces=self._chunks))

    def _finish(self, body: bytes | StreamedBody) -> None:
        # What was sent is checked by the registry against the digest, too.
        self._http.send(
            "PUT",
            self._repository.host,
            _with_query(self._location, digest=self._blob.digest),
            scopes=self._scopes,
            headers={"Content-Type": "application/octet-stream"},
            body=body,
            ok=(201,),
            repeat=False,
        )

    def _check(self, digest: str) -> None:
        if self._sent != self._blob.size or f"sha256:{digest}" != self._blob.digest:
            raise ManifestMismatch(
                f"{self._blob.digest}: what was read to be uploaded has other bytes ({self._sent} of {self._blob.size})"
            )


def upload_location(answer: RegistryAnswer) -> str:
    """Return where an upload goes on; raises `RegistryError` if the registry does not say."""
    location = answer.headers.get("Location")
    if not location:
        raise RegistryError(f"{answer.url.partition('?')[0]}: the registry does not say where to upload to")
    return address(location, base=answer.url)


def _with_query(url: str, **values: str) -> str:
    parts = urlsplit(url)
    query = "&".join(filter(None, [parts.query, urlencode(values)]))
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))


def _pieces(chunks: Chunks, size: int) -> Iterator[bytes]:
    """Cut a stream into pieces of `size` bytes, the last one shorter. One piece at a time is held."""
    held: list[memoryview] = []
    room = size
    for chunk in chunks():
        if len(chunk) == size == room:
            yield chunk
            continue
        left = memoryview(chunk)
        while left:
            held.append(left[:room])
            left = left[room:]
            room -= len(held[-1])
            if not room:
                piece = b"".join(held)
                held.clear()
                yield piece
                del piece
                room = size
    if held:
        yield b"".join(held)
