"""Whose connections stay when more come than there is room for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgeadapt.daemon.http.connection_shares import KNOWN, NEW, NEW_OF_ONE, Peers, address_of


class Visitor:
    def __init__(self, address: str, is_busy: bool = False) -> None:
        self.address, self.is_busy, self.has_left = address, is_busy, False

    def leave(self) -> None:
        self.has_left = True


@pytest.fixture
def peers() -> Peers:
    return Peers()


@pytest.fixture
def come(peers: Peers) -> Callable[..., list[Visitor]]:
    def come(
        address: str, count: int = 1, *, is_let_in: bool = False, is_busy: bool = False
    ) -> list[Visitor]:
        visitors = [Visitor(address, is_busy) for _ in range(count)]
        for one in visitors:
            peers.came(one)
            if is_let_in:
                assert peers.was_let_in(one)
        return visitors

    return come


def test_an_address_that_is_silent_keeps_only_its_share_and_nobody_elses(
    come: Callable[..., list[Visitor]],
) -> None:
    honest = come("192.0.2.1")
    silent = come("198.51.100.1", 4 * NEW)
    assert (
        not honest[0].has_left
        and sum(not one.has_left for one in silent) == NEW_OF_ONE
        and not silent[-1].has_left
    )


def test_many_silent_addresses_do_not_close_one_that_was_let_in_before(
    come: Callable[..., list[Visitor]],
) -> None:
    come("192.0.2.1", is_let_in=True)
    again = come("192.0.2.1", 2)
    silent = [
        one for number in range(4 * NEW) for one in come(f"198.51.{number // 250}.{number % 250}")
    ]
    assert (
        not any(one.has_left for one in again)
        and sum(not one.has_left for one in silent) == NEW - 2
    )


def test_known_connections_that_idle_make_room_and_those_that_are_answered_do_not(
    peers: Peers, come: Callable[..., list[Visitor]]
) -> None:
    answered = come("192.0.2.1", KNOWN - 1, is_let_in=True, is_busy=True)
    idle, late = come("192.0.2.2", is_let_in=True), come("192.0.2.3", is_let_in=True, is_busy=True)
    assert idle[0].has_left and not late[0].has_left and not any(one.has_left for one in answered)
    last = come("192.0.2.4")
    assert not peers.was_let_in(last[0]) and not last[0].has_left


def test_what_left_takes_no_room(peers: Peers, come: Callable[..., list[Visitor]]) -> None:
    for one in come("192.0.2.1", NEW_OF_ONE):
        peers.left(one)
    assert not any(one.has_left for one in come("192.0.2.1", NEW_OF_ONE))


def test_one_that_left_while_its_token_was_looked_at_takes_no_room(
    peers: Peers, come: Callable[..., list[Visitor]]
) -> None:
    (late,) = come("192.0.2.1")
    peers.left(late)
    assert peers.was_let_in(late) and not peers.is_known(late)


def test_a_network_of_64_bits_is_one_peer() -> None:
    assert (
        address_of("2001:db8::1") == address_of("2001:db8::ffff:1") != address_of("2001:db8:0:1::1")
    )
    assert (
        address_of("::ffff:192.0.2.1") == address_of("192.0.2.1") == "192.0.2.1"
        and address_of("fe80::1%eth0") == "fe80::/64"
    )


def test_tries_in_vain_slow_an_address_down_and_no_other_and_are_forgotten(
    peers: Peers, come: Callable[..., list[Visitor]]
) -> None:
    known, guesser, other = (
        come("198.51.100.1", is_let_in=True) + come("198.51.100.1") + come("192.0.2.1")
    )
    waits = []
    for _ in range(12):
        peers.failed(guesser, 100.0)
        waits.append(peers.wait_s(guesser, 100.0))
    assert waits[:4] == [0.0] * 4 and waits[4:7] == [0.1, 0.2, 0.4] and waits[-1] == 2.0
    assert (
        peers.wait_s(other, 100.0) == 0.0 == peers.wait_s(known, 100.0)
        and peers.wait_s(guesser, 161.0) == 0.0
    )


def test_a_wrong_token_on_a_known_connection_makes_it_new_again(
    peers: Peers, come: Callable[..., list[Visitor]]
) -> None:
    (proxied,) = come("192.0.2.1", is_let_in=True)
    for _ in range(6):
        peers.failed(proxied, 1.0)
    assert not peers.is_known(proxied) and peers.wait_s(proxied, 1.0) == 0.2


def test_addresses_that_tried_are_not_remembered_without_end(
    peers: Peers, come: Callable[..., list[Visitor]]
) -> None:
    for number in range(5000):
        (guesser,) = come(f"10.0.{number // 250}.{number % 250}")
        peers.failed(guesser, 1.0)
        peers.left(guesser)
    assert len(peers._failed) == 1024
