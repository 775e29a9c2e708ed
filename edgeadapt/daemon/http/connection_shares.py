"""Which connections stay when more come than there is room for: shares of addresses, and a reserve.

A connection is *new* until a request on it was let in: its token was right, or none is needed. New
ones and known ones have room of their own, so that neither keeps the other out. Where room ends,
the longest silent connection goes, of the address that has the most, rather than the one that
comes: whoever asks at once is answered.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Iterable
from typing import Any, Protocol

# open at once: new ones, of one other machine among them, and known ones
NEW, NEW_OF_ONE, KNOWN = 128, 32, 128
_ADDRESSES = 1024  # remembered: of those who were let in, and of those who tried in vain
_FREE_TRIES, _FIRST_WAIT_S, _LONGEST_WAIT_S, _FORGOTTEN_S = 5, 0.1, 2.0, 60.0


class Peer(Protocol):
    """An open connection. ``address`` as ``address_of``; ``is_busy`` while it is being answered."""

    address: str

    @property
    def is_busy(self) -> bool: ...

    def leave(self) -> None:
        """Close it, at once."""


def address_of(host: str) -> str:
    """What counts as one peer: an IPv4 address, or the network of 64 bits of an IPv6 address."""
    try:
        number = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(number, ipaddress.IPv6Address) and number.ipv4_mapped is not None:
        return str(number.ipv4_mapped)
    if number.version == 4:
        return str(number)
    return str(ipaddress.ip_network((number, 64), strict=False))


class Peers:
    """The connections of a server. Every method is called from its one thread."""

    def __init__(self) -> None:
        self._new: OrderedDict[Peer, None] = OrderedDict()  # the longest silent first
        self._known: OrderedDict[Peer, None] = OrderedDict()
        # addresses that were let in, the latest last
        self._welcome: OrderedDict[str, None] = OrderedDict()
        # tries in vain, and when the last was
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def came(self, peer: Peer) -> None:
        """A connection was opened. Some other one may have to leave."""
        self._new[peer] = None
        of_one = [one for one in self._new if one.address == peer.address]
        if len(of_one) > NEW_OF_ONE and not _is_here(peer.address):
            _dismiss(self._new, of_one)
        if len(self._new) > NEW:
            strangers = [one for one in self._new if one.address not in self._welcome]
            _dismiss(self._new, strangers or self._new)

    def was_let_in(self, peer: Peer) -> bool:
        """A request on it may be answered. False if there is no room: all others are being
        answered.
        """
        if peer in self._new:
            if len(self._known) >= KNOWN:
                idle = [one for one in self._known if not one.is_busy]
                if not idle:
                    return False
                _dismiss(self._known, idle)
            del self._new[peer]
            self._known[peer] = None
        elif peer not in self._known:  # it had to leave meanwhile, and nobody reads its answer
            return True
        self._known.move_to_end(peer)
        _note(self._welcome, peer.address, None)
        return True

    def is_known(self, peer: Peer) -> bool:
        return peer in self._known

    def left(self, peer: Peer) -> None:
        """It is closed."""
        self._new.pop(peer, None)
        self._known.pop(peer, None)

    def failed(self, peer: Peer, now: float) -> None:
        """A request had a wrong token: it is new again. ``now``: seconds that never go back."""
        if peer in self._known:
            del self._known[peer]
            self.came(peer)
        _note(self._failed, peer.address, (self._tries(peer.address, now) + 1, now))

    def wait_s(self, peer: Peer, now: float) -> float:
        """Seconds that a token waits before it is looked at: more after every try in vain.

        Tries of one address count together. A right token waits as long as a wrong one, or the wait
        itself would tell them apart; a known connection does not wait.
        """
        tries = self._tries(peer.address, now)
        if tries < _FREE_TRIES or peer in self._known:
            return 0.0
        return float(min(_FIRST_WAIT_S * 2.0 ** min(tries - _FREE_TRIES, 16), _LONGEST_WAIT_S))

    def _tries(self, address: str, now: float) -> int:
        tries, last = self._failed.get(address, (0, now))
        return tries if now - last < _FORGOTTEN_S else 0


def _dismiss(among: OrderedDict[Peer, None], some: Iterable[Peer]) -> None:
    """Of ``some``, drop one of the address that has the most of them: the longest silent."""
    some = list(some)
    counts = Counter(one.address for one in some)
    going = max(some, key=lambda one: counts[one.address])  # of equals the first
    del among[going]
    going.leave()


def _is_here(address: str) -> bool:
    """This machine; a proxy on it may speak for many others."""
    return address in ("unix", "::/64") or address.startswith("127.")


def _note(memory: OrderedDict[str, Any], address: str, what: Any) -> None:
    memory[address] = what
    memory.move_to_end(address)
    if len(memory) > _ADDRESSES:
        memory.popitem(last=False)


__all__ = ["KNOWN", "NEW", "NEW_OF_ONE", "Peer", "Peers", "address_of"]
