"""The certificate under https, from PEM files that may change while the daemon runs."""

from __future__ import annotations

import ssl
from pathlib import Path

from edgeadapt.errors import RecipeError


class Certificate:
    """A certificate, those between it and a trusted authority's, and its key, not encrypted.

    Args:
        certificate: PEM, the server's own first. key: PEM; the same file will do.

    Attributes:
        context: with which the next connection is answered: TLS 1.2 or 1.3.

    Raises:
        RecipeError: a file cannot be read, or the two do not belong together.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self.certificate, self.key = certificate, key
        self.context = self._read()

    def renew(self) -> None:
        """Read the files again; connections that are open keep the old one.

        Raises:
            RecipeError: as above; the old one goes on.
        """
        self.context = self._read()

    def _read(self) -> ssl.SSLContext:
        for name, path in (("certificate", self.certificate), ("key", self.key)):
            try:
                path.open("rb").close()
            except OSError as error:
                raise RecipeError(f"control.{name}: {path}: {error.strerror}") from None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            # or OpenSSL asks the terminal for one
            context.load_cert_chain(self.certificate, self.key, password="")
        except (OSError, ValueError) as error:
            why = getattr(error, "reason", None) or "no certificate and unencrypted key in PEM"
            raise RecipeError(
                f"control.certificate {self.certificate} and control.key {self.key} are no pair: {why}"
            ) from None
        return context


__all__ = ["Certificate"]
