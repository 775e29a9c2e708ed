"""The certificate under https, from PEM files that may change while the daemon runs."""

from __future__ import annotations

import logging
import ssl
import time
from pathlib import Path

from cryptography import x509

from edgeadapt.errors import RecipeError

log = logging.getLogger("edgeadapt.daemon.http")
_DAY_S = 86400.0
_SOON_DAYS = 14.0  # before its end it is warned of


class Certificate:
    """A certificate, those between it and a trusted authority's, and its key, not encrypted.

    Args:
        certificate: PEM, the server's own first. key: PEM; the same file will do.

    Attributes:
        context: with which the next connection is answered: TLS 1.2 or 1.3. ends_at: seconds since
            the epoch. One that has ended is taken at a start, as the clock of a device may not be
            right yet, and ``warning`` says so.

    Raises:
        RecipeError: a file cannot be read, or the two do not belong together.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self.certificate, self.key = certificate, key
        self.context, self.ends_at = self._read()
        self._warned_on = 0  # day of the last line in the log

    def renew(self) -> None:
        """Read the files again; connections that are open keep the old one.

        Raises:
            RecipeError: as above, or the new one has ended; the old one goes on.
        """
        context, ends_at = self._read()
        if ends_at <= time.time():
            raise RecipeError(
                f"control.certificate {self.certificate} ended on {_date(ends_at)}: the one before "
                "goes on; put a new one there and reload"
            )
        self.context, self.ends_at, self._warned_on = context, ends_at, 0

    @property
    def days_left(self) -> float:
        """Until it ends; negative once it has."""
        return (self.ends_at - time.time()) / _DAY_S

    @property
    def warning(self) -> str:
        """That it ends soon, or has ended, and what to do; empty while there are more than 14
        days.
        """
        if (days := self.days_left) > _SOON_DAYS:
            return ""
        when = (
            "ended"
            if days <= 0
            else f"ends in {days:.0f} days,"
            if days >= 2
            else "ends within two days,"
        )
        return (
            f"control.certificate {self.certificate} {when} on {_date(self.ends_at)}: "
            "put a new one there and send SIGHUP"
        )

    def watch(self) -> None:
        """Say so in the log, once a day."""
        day = int(time.time() // _DAY_S)
        if day != self._warned_on and (warning := self.warning):
            self._warned_on = day
            log.warning("%s", warning)

    def _read(self) -> tuple[ssl.SSLContext, float]:
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
                f"control.certificate {self.certificate} and control.key {self.key} are no pair:"
                f" {why}"
            ) from None
        first = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        return context, first.not_valid_after_utc.timestamp()


def _date(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(at))


__all__ = ["Certificate"]
